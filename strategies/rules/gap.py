"""``rating = "gap"`` (FedDG-GA): sites that lose most by merging get a larger share.

Sums are exact and rounded once (``math.fsum``), so the order of sites never matters.
"""

import math
from collections.abc import Mapping

from common.messages import Update
from strategies.rules.base import ROUNDING, Masses, Rule, present


class Gap(Rule):
    """Moves shares by the gap between the Dice of a site's own adapter and that of the merge."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Move the shares by the Dice of the last merge, which sites report with their updates."""
        held = present(self.memory.get("shares", {}), share)
        step = gap_step(
            self.method.rating_step, max(server_round - 1, 1), self.config.federation.rounds
        )
        merged = {s: u.start_dice for s, u in updates.items() if u.start_dice is not None}
        moved = gap_shares(held, self.memory.get("own", {}), merged, step)
        own = {s: u.local_dice for s, u in updates.items() if u.local_dice is not None}
        self.memory.update(shares={**self.memory.get("shares", {}), **moved}, own=own)
        return {site: moved[site] for site in share}


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
    patients, local − merged: both are larger where the merge is worse. The authors' code differs
    from the equation: it does not subtract the mean and divides the step by three; neither is done
    here. The share of the gap farthest from the mean always moves by a whole step, even where the
    gaps differ by chance alone.

    Parameters
    ----------
    shares
        a_c of this round by site.
    local, merged
        Dice at each site of its own adapter before the merge, and of the merge. A site that lacks
        one of them keeps its share, and the others divide the sum of theirs.
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
