"""``rating = "search"``: the best of several merges, a pattern search on the simplex of masses.

It is ours. Sums are exact until they are rounded once, so the order of sites never matters.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from common.messages import Update
from strategies.rules.base import Dice, Masses, Reports, Rule, Settled, finite, present


class Search(Rule):
    """The masses of the merge move to the best of the points that a round tries."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Return the point at which the search stands."""
        return present(self.memory.get("shares", {}), share)

    def others(self, server_round: int, share: Masses) -> list[Masses]:
        """Return a move towards every site."""
        return candidates(share, self._step(), sorted(share))[1:]

    def settle(self, server_round: int, share: Masses, reports: Reports, before: Dice) -> Settled:
        """Go to the best candidate."""
        tried = [share, *self.others(server_round, share)]
        dice: list[dict[str, float]] = [
            {s: v.all_dice[i] for s, v in reports.items() if i < len(v.all_dice)}
            for i in range(len(tried))
        ]
        best, _ = choose(tried, dice)
        masses, step = tried[best], next_step(self._step(), best > 0)
        self.memory.update(shares={**self.memory.get("shares", {}), **masses}, step=step)
        factors = {site: masses[site] / share[site] if share[site] else 1.0 for site in share}
        return Settled(masses, factors)

    def _step(self) -> float:
        return float(self.memory.get("step", self.method.rating_step))


def candidates(
    masses: Mapping[str, float], step: float, sites: Iterable[str]
) -> list[dict[str, float]]:
    """Return the points of the simplex that a round of the search tries.

    First w itself, then w + step · (e_c − w) for every site c in the order of ``sites``. These
    moves reach, in combination, every direction that does not leave the simplex.

    What it costs: N + 1 merges go down to every site in place of one, and each is validated. What
    it reveals: the merges M_c = (1 − step) · M + step · X_c hold the single adapters, so a site
    that knows the step can solve for X_c, exactly or up to what the merge truncated.

    Parameters
    ----------
    masses
        w by site, as of the last round. Those of sites that are away this round are left out, a
        site without one begins with 1/N, and then all are scaled to sum to one.
    step
        In (0, 1].
    sites
        Whose adapters are merged this round.
    """
    sites = list(sites)
    now = present(masses, dict.fromkeys(sites, 1 / len(sites)))
    moves = [{c: (1 - step) * w + step * (c == to) for c, w in now.items()} for to in sites]
    return [now, *moves]


def choose(
    candidates: Sequence[Mapping[str, float]], dice: Sequence[Mapping[str, float]]
) -> tuple[int, float | None]:
    """Choose the candidate with the highest mean Dice, the first of equals.

    The mean is over the sites that rated every candidate, each counted once. The best of several
    means is too high an estimate of itself: quote scores of test patients, not this one.

    Parameters
    ----------
    candidates
        From :func:`candidates`.
    dice
        For each candidate, its Dice by site.

    Returns
    -------
    tuple
        Index and mean Dice of the candidate; 0 and None where no site rated all of them.
    """
    assert len(candidates) == len(dice), (len(candidates), len(dice))
    everywhere = set.intersection(*(set(finite(found)) for found in dice))
    if not everywhere:
        return 0, None
    means = [math.fsum(found[c] for c in everywhere) / len(everywhere) for found in dice]
    best = means.index(max(means))
    return best, means[best]


def next_step(step: float, improved: bool) -> float:
    """Return the step of the next round of the search: half of it where the present point won."""
    return step if improved else step / 2
