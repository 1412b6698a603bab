"""``rating = "recipient"``: a merge for each site, by how it rates the others' adapters.

Sums are exact and rounded once (``math.fsum``), so the order of sites never matters.
"""

import math
from collections.abc import Mapping

from common.messages import Update
from strategies.rules.base import Dice, Masses, Reports, Rule, Settled, finite

SOFTEST = 0.1
"""Temperature of the softmax at ``rating-step = 1``, in Dice."""


class Recipient(Rule):
    """Every site goes on with the mean of the adapters that do well on its own patients."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Remember the Dice of what every site started from; return the shares unchanged."""
        self.start = {s: u.start_dice for s, u in updates.items() if u.start_dice is not None}
        return share

    def others(self, server_round: int, share: Masses) -> list[Masses]:
        """Return every site's adapter alone."""
        return [{site: float(site == alone) for site in share} for alone in sorted(share)]

    def settle(self, server_round: int, share: Masses, reports: Reports, before: Dice) -> Settled:
        """Return the shares, and a set of masses for each recipient."""
        senders = sorted(share)
        dice = {
            site: dict(zip(senders, report.all_dice[1:], strict=True))
            for site, report in reports.items()
            if len(report.all_dice) == len(senders) + 1
        }
        temperature = SOFTEST * self.method.rating_step
        start = {site: value for site, value in self.start.items() if site in dice}
        personal = recipient_masses(dice, start, temperature)
        notes = {site: {"rates": row} for site, row in dice.items()}
        return Settled(share, dict.fromkeys(share, 1.0), personal=personal, notes=notes)


def recipient_masses(
    dice: Mapping[str, Mapping[str, float]], own_start: Mapping[str, float], temperature: float
) -> dict[str, dict[str, float]]:
    """Return the masses of a merge for each recipient, by how it rates the others' adapters.

    mass(r, c) = exp(D(r, c) / temperature) / Σ_i exp(D(r, i) / temperature), over the senders
    whose Dice is at least that of what the recipient started the round from; where there is none,
    over all that it rated, since the round must end in some merge. Other senders have mass 0.

    Leaving out adapters that are worse than the start is from Zhang et al., "Personalized federated
    learning with first order model optimization" (FedFomo), ICLR 2021, arXiv 2012.08565. There the
    mass is the fall of the loss over the distance of the weights; here it is a softmax of Dice.

    Cost: N adapters go down to every site in place of one merge, and each is validated. Privacy:
    every site sees every other site's adapter, and the server sees the whole matrix of Dice.

    Parameters
    ----------
    dice
        D(r, c), Dice of sender c's adapter at recipient r; NaN counts as not rated. A recipient
        that rated nobody gives all senders the same mass.
    own_start
        By recipient, the Dice of what it started the round from; one without leaves nobody out.
    temperature
        In Dice, above 0: towards 0 only the best sender counts, towards ∞ all count alike.

    Returns
    -------
    dict
        By recipient, the mass of every sender; the masses of a recipient sum to one.
    """
    senders = sorted({c for row in dice.values() for c in row})
    masses = {}
    for recipient in sorted({*dice, *own_start}):
        rated = finite(dice.get(recipient, {})) or dict.fromkeys(senders, 0.0)
        start = own_start.get(recipient, -math.inf)
        used = {c: d for c, d in rated.items() if d >= start} or rated
        masses[recipient] = {**dict.fromkeys(senders, 0.0), **_softmax(used, temperature)}
    return masses


def _softmax(dice: Mapping[str, float], temperature: float) -> dict[str, float]:
    best = max(dice.values(), default=0.0)  # subtracted, so that nothing overflows
    power = {c: math.exp((d - best) / temperature) for c, d in dice.items()}
    total = math.fsum(power.values())
    return {c: p / total for c, p in power.items()}
