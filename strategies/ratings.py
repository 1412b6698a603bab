"""Ratings beside the penalty: other ways from validation to the masses of a merge. Pure functions.

``gap``        who loses most by merging gets more (Zhang et al., CVPR 2023).
``search``     the best of several merges, a pattern search on the simplex; ours.
``recipient``  a merge for each site, by how it rates the others' adapters; after Zhang et al.,
               ICLR 2021.

Sums are exact until they are rounded once, so the order of sites never matters.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

ROUNDING = 1e-9
"""Dice or weights this close are equal: without it ``gap`` would blow rounding up to a step."""


def gap_step(step: float, server_round: int, rounds: int) -> float:
    """Return the step of round t, counted from 1, of R: step · (1 − (t−1)/R), never below 0."""
    return step * max(0.0, 1 - (server_round - 1) / rounds)


def gap_shares(
    shares: Mapping[str, float],
    local: Mapping[str, float],
    merged: Mapping[str, float],
    step: float,
) -> dict[str, float]:
    """Give a larger share to sites at which the merge is worse than their own adapter.

    a_c ← a_c + step · (G_c − mean G) / max|G − mean G|, clipped to [0, 1] and scaled back to the
    sum before, with the generalisation gap G_c = local_c − merged_c.

    Source: Zhang et al., "Federated domain generalization with generalization adjustment"
    (FedDG-GA), CVPR 2023. The paper's G is of losses, merged − local; ours is of Dice on validation
    patients, which is what sites report: both are larger where the merge is worse. The authors'
    code differs from the equation: it does not take off the mean and divides the step by three;
    neither is done here. The gap farthest from the mean always moves by a whole step, even where
    all gaps differ by chance alone.

    Parameters
    ----------
    shares
        a_c of this round by site.
    local, merged
        Dice at each site of its own adapter before the merge, and of the merge. A site without
        both keeps its share, and the others divide up what they had together.
    step
        From :func:`gap_step`.

    Returns
    -------
    dict
        a_c of the next round, for every site in ``shares``.
    """
    gap = {c: local[c] - merged[c] for c in shares if c in local and c in merged}
    if not gap:
        return dict(shares)
    mean = math.fsum(gap.values()) / len(gap)
    largest = max(abs(g - mean) for g in gap.values())
    if largest < ROUNDING:
        return dict(shares)
    moved = {c: shares[c] + step * (g - mean) / largest for c, g in gap.items()}
    clipped = {c: min(max(a, 0.0), 1.0) for c, a in moved.items()}
    total = math.fsum(clipped.values())
    if not total:  # none of them had a share, and the step is 0
        return dict(shares)
    held = math.fsum(shares[c] for c in gap)
    return {**shares, **{c: held * a / total for c, a in clipped.items()}}


def present(held: Mapping[str, float], share: Mapping[str, float]) -> dict[str, float]:
    """Return what the sites of a round hold, scaled to sum to one.

    Parameters
    ----------
    held
        By site, of the rounds before; sites that are away are left out.
    share
        By site of this round: what a newcomer begins with, and all where nobody holds anything.
    """
    now = {c: held.get(c, value) for c, value in share.items()}
    total = math.fsum(now.values())
    if not total:  # only sites without weight are here
        return dict(share)
    return now if abs(total - 1) <= ROUNDING else {c: w / total for c, w in now.items()}


def candidates(
    weights: Mapping[str, float], step: float, sites: Iterable[str]
) -> list[dict[str, float]]:
    """Return the points of the simplex that a round of the search tries.

    First w itself, then w + step · (e_c − w) for every site c in the order of ``sites``. These
    moves reach, in combination, every direction that does not leave the simplex.

    What it costs: N + 1 merges go down to every site in place of one, and each is validated. What
    it reveals: the merges M_c = (1 − step) · M + step · X_c hold the single adapters, so a site
    that knows the step can solve for X_c, exactly or up to what the merge truncated.

    Parameters
    ----------
    weights
        w by site, as of the last round. Those of sites that are away this round are left out, a
        site without one begins with 1/N, and then all are scaled to sum to one.
    step
        In (0, 1].
    sites
        Whose adapters are merged this round.
    """
    sites = list(sites)
    now = present(weights, dict.fromkeys(sites, 1 / len(sites)))
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
    everywhere = set.intersection(*(set(_numbers(found)) for found in dice))
    if not everywhere:
        return 0, None
    means = [math.fsum(found[c] for c in everywhere) / len(everywhere) for found in dice]
    best = means.index(max(means))
    return best, means[best]


def next_step(step: float, improved: bool) -> float:
    """Return the step of the next round of the search: half of it where the present point won."""
    return step if improved else step / 2


def recipient_masses(
    dice: Mapping[str, Mapping[str, float]], own_start: Mapping[str, float], temperature: float
) -> dict[str, dict[str, float]]:
    """Return the masses of a merge for each recipient, by how it rates the others' adapters.

    mass(r, c) = exp(D(r, c) / temperature) / Σ_i exp(D(r, i) / temperature), over the senders
    that rate at least what the recipient started the round from; over all that it rated where none
    does, since the round must end in some merge. Others have mass 0.

    Leaving out adapters that are worse than the start is from Zhang et al., "Personalized federated
    learning with first order model optimization" (FedFomo), ICLR 2021, arXiv 2012.08565; there
    masses are by the fall of the loss over the distance of the weights, here by a softmax of Dice.

    What it costs: N adapters go down to every site in place of one merge, and each is validated.
    What it reveals: every site sees every other site's adapter itself, and the server sees the
    whole matrix of Dice.

    Parameters
    ----------
    dice
        D(r, c), Dice of sender c's adapter at recipient r. What is missing or not a number is
        not rated. A recipient that rated nobody gives all senders the same mass.
    own_start
        By recipient, the Dice of what it started the round from; one without leaves nobody out.
    temperature
        In Dice, above 0: towards 0 only the best sender counts, towards ∞ all alike.

    Returns
    -------
    dict
        By recipient, the mass of every sender; the masses of a recipient sum to one.
    """
    senders = sorted({c for row in dice.values() for c in row})
    masses = {}
    for recipient in sorted({*dice, *own_start}):
        rated = _numbers(dice.get(recipient, {})) or dict.fromkeys(senders, 0.0)
        start = own_start.get(recipient, -math.inf)
        used = {c: d for c, d in rated.items() if d >= start} or rated
        masses[recipient] = {**dict.fromkeys(senders, 0.0), **_softmax(used, temperature)}
    return masses


def _softmax(dice: Mapping[str, float], temperature: float) -> dict[str, float]:
    best = max(dice.values(), default=0.0)  # taken off, so that nothing overflows
    power = {c: math.exp((d - best) / temperature) for c, d in dice.items()}
    total = math.fsum(power.values())
    return {c: p / total for c, p in power.items()}


def _numbers(dice: Mapping[str, float]) -> dict[str, float]:
    return {c: d for c, d in dice.items() if math.isfinite(d)}
