"""``rating = "search"``: the best of several merges, a pattern search on the simplex of masses.

This rule is ours. Sums are exact and rounded once, so the order of sites never matters.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

from common.messages import Update
from strategies.rules.base import Dice, Masses, Reports, Rule, Settled, finite, present


class Search(Rule):
    """Moves the masses of the merge to the best of the points that a round tries."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Return the masses that the search has reached."""
        return present(self.memory.get("shares", {}), share)

    def others(self, server_round: int, share: Masses) -> list[Masses]:
        """Return the masses moved a step towards each site."""
        return candidates(share, self._step(), sorted(share))[1:]

    def settle(self, server_round: int, share: Masses, reports: Reports, before: Dice) -> Settled:
        """Return the masses of the best candidate, and halve the step where none was better."""
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

    Cost: N + 1 merges go down to every site in place of one, and each is validated. Privacy: a site
    that knows the step can solve M_c = (1 − step) · M + step · X_c for the adapter X_c of another
    site, up to what the merge truncated.

    Parameters
    ----------
    masses
        w by site after the last round. Sites that are away this round are left out, a newcomer
        begins with 1/N, and then all are scaled to sum to one.
    step
        Size of the move, in (0, 1].
    sites
        The sites whose adapters are merged this round.
    """
    sites = list(sites)
    now = present(masses, dict.fromkeys(sites, 1 / len(sites)))
    moves = [{c: (1 - step) * w + step * (c == to) for c, w in now.items()} for to in sites]
    return [now, *moves]


def choose(
    candidates: Sequence[Mapping[str, float]], dice: Sequence[Mapping[str, float]]
) -> tuple[int, float | None]:
    """Choose the candidate with the highest mean Dice, the first of equals.

    The mean is over the sites that rated every candidate. As the best of several means it is
    biased upwards: quote scores of test patients, not this one.

    Parameters
    ----------
    candidates
        From :func:`candidates`.
    dice
        For each candidate, its Dice by site.

    Returns
    -------
    tuple
        Index and mean Dice of the best candidate; 0 and None where no site rated all of them.
    """
    assert len(candidates) == len(dice), (len(candidates), len(dice))
    everywhere = set.intersection(*(set(finite(found)) for found in dice))
    if not everywhere:
        return 0, None
    means = [math.fsum(found[c] for c in everywhere) / len(everywhere) for found in dice]
    best = means.index(max(means))
    return best, means[best]


def next_step(step: float, improved: bool) -> float:
    """Return the step of the next round: half of it where no candidate was better."""
    return step if improved else step / 2
