"""Rules: how a round's validation becomes the masses of its merge, one for each ``rating``.

A rule says what the sites' shares are before they validate, what they validate beside the merge
with these shares, and what is merged in the end. The equations are in :mod:`strategies.penalty`
and :mod:`strategies.ratings`; what a rule carries from round to round is in the run's state.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.config import RunConfig
from strategies import penalty, ratings, screening, weighting
from strategies.replies import Update, Validation

Masses = dict[str, float]
Dice = Mapping[str, float]
Reports = Mapping[str, Validation]

SOFTEST = 0.1
"""Temperature of ``recipient`` at ``rating-step = 1``, in Dice."""


@dataclass(frozen=True)
class Settled:
    """What a rule makes of a round.

    Attributes
    ----------
    masses
        Of the merge, by site.
    weights
        What the shares were multiplied with; 1 for all but penalised sites.
    lambda_t
        λ of the round.
    personal
        Masses of a merge for each recipient, where every site gets one of its own.
    notes
        Further facts for the record, by site.
    """

    masses: Masses
    weights: Masses
    lambda_t: float = 0.0
    personal: Mapping[str, Masses] = field(default_factory=dict)
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Plain:
    """Shares as they are: no rating, and what the other rules begin with.

    Parameters
    ----------
    config
        The run's configuration.
    memory
        What the rule carries on; changed in place, of what JSON can hold.
    """

    def __init__(self, config: RunConfig, memory: dict[str, Any]) -> None:
        self.config = config
        self.method = config.method
        self.memory = memory

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Return the shares of the merge that sites validate."""
        return share

    def others(self, share: Masses) -> list[Masses]:
        """Return the masses of further merges that every site validates."""
        return []

    def settle(self, server_round: int, share: Masses, found: Reports, before: Dice) -> Settled:
        """Return what is merged.

        Parameters
        ----------
        server_round
            1 for the first.
        share
            Of the merge that was validated.
        found
            What sites report of it, and of the others.
        before
            P(t−1).
        """
        return Settled(share, dict.fromkeys(share, 1.0))


class Penalty(Plain):
    """Eq. 1: sites that gained while another lost are damped."""

    def settle(self, server_round: int, share: Masses, found: Reports, before: Dice) -> Settled:
        """Return the penalised masses."""
        method = self.method
        dice = {site: report.dice for site, report in found.items()}
        rated = screening.rated(dice, before, self.config.screening.rating_check)
        volumes = {site: report.volumes for site, report in found.items()}
        tolerance = penalty.tolerances(method.tolerance, volumes)
        if server_round == 1:
            self.memory["first-spread"] = penalty.spread(before)
        calm = self.memory.get("calm-rounds", 0)
        lambda_t = penalty.lambda_of(
            method.schedule,
            method.lambda_0,
            method.decay,
            server_round,
            calm,
            penalty.spread(rated),
            self.memory.get("first-spread"),
        )
        self.memory["calm-rounds"] = calm + (not penalty.disagree(rated, before, tolerance))
        weights = penalty.site_weights(share, rated, before, lambda_t, tolerance)
        normalise = weighting.normalises(method.normalise, method.merge)
        masses = weighting.masses(share, weights, normalise=normalise)
        notes = {site: {"unrated": True} for site in dice if site not in rated}
        return Settled(masses, weights, lambda_t, notes=notes)


class Gap(Plain):
    """FedDG-GA: shares move by the gap between a site's own adapter and the merge."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Move the shares by what the sites report of the last merge before they train on."""
        held = ratings.present(self.memory.get("shares", {}), share)
        step = ratings.gap_step(
            self.method.rating_step, max(server_round - 1, 1), self.config.federation.rounds
        )
        merged = {s: u.start_dice for s, u in updates.items() if u.start_dice is not None}
        moved = ratings.gap_shares(held, self.memory.get("own", {}), merged, step)
        own = {s: u.local_dice for s, u in updates.items() if u.local_dice is not None}
        self.memory.update(shares={**self.memory.get("shares", {}), **moved}, own=own)
        return {site: moved[site] for site in share}


class Search(Plain):
    """The best of several merges: a pattern search on the simplex."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Return the point at which the search stands."""
        return ratings.present(self.memory.get("shares", {}), share)

    def others(self, share: Masses) -> list[Masses]:
        """Return a move towards every site."""
        return ratings.candidates(share, self._step(), sorted(share))[1:]

    def settle(self, server_round: int, share: Masses, found: Reports, before: Dice) -> Settled:
        """Go to the best candidate."""
        candidates = [share, *self.others(share)]
        dice: list[dict[str, float]] = [
            {s: v.all_dice[i] for s, v in found.items() if i < len(v.all_dice)}
            for i in range(len(candidates))
        ]
        best, _ = ratings.choose(candidates, dice)
        step = ratings.next_step(self._step(), best > 0)
        self.memory.update(shares={**self.memory.get("shares", {}), **candidates[best]}, step=step)
        weights = {site: candidates[best][site] / share[site] if share[site] else 1.0
                   for site in share}  # fmt: skip
        return Settled(candidates[best], weights)

    def _step(self) -> float:
        return float(self.memory.get("step", self.method.rating_step))


class Recipient(Plain):
    """A merge for each site, by how it rates the others' adapters."""

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Remember how good what every site started from was."""
        self.start = {s: u.start_dice for s, u in updates.items() if u.start_dice is not None}
        return share

    def others(self, share: Masses) -> list[Masses]:
        """Return every site's adapter alone."""
        return [{site: float(site == alone) for site in share} for alone in sorted(share)]

    def settle(self, server_round: int, share: Masses, found: Reports, before: Dice) -> Settled:
        """Return masses for each recipient beside the shares."""
        senders = sorted(share)
        dice = {
            site: dict(zip(senders, report.all_dice[1:], strict=True))
            for site, report in found.items()
            if len(report.all_dice) == len(senders) + 1
        }
        temperature = SOFTEST * self.method.rating_step
        start = {site: value for site, value in self.start.items() if site in dice}
        personal = ratings.recipient_masses(dice, start, temperature)
        notes = {site: {"rates": row} for site, row in dice.items()}
        return Settled(share, dict.fromkeys(share, 1.0), personal=personal, notes=notes)


RULES = {"none": Plain, "penalty": Penalty, "gap": Gap, "search": Search, "recipient": Recipient}


def rule_of(config: RunConfig, memory: dict[str, Any]) -> Plain:
    """Return the rule of a run's ``rating``."""
    return RULES[config.method.rating](config, memory)
