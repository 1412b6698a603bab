"""What every rule answers, and the rule that changes nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.config import RunConfig
from common.messages import Update, Validation

Masses = dict[str, float]
Dice = Mapping[str, float]
Reports = Mapping[str, Validation]

ROUNDING = 1e-9
"""Dice or masses that differ by less count as equal."""


@dataclass(frozen=True)
class Settled:
    """What a rule decides at the end of a round.

    Attributes
    ----------
    masses
        Mass of every site that trained in the merge that the next round starts from.
    factors
        What each site's share was multiplied with: its penalty under Eq. 1; 1 changes nothing.
    lambda_t
        λ of the round.
    personal
        Masses of one more merge for each site that goes on with a merge of its own.
    notes
        Further facts for the round's record, by site.
    """

    masses: Masses
    factors: Masses
    lambda_t: float = 0.0
    personal: Mapping[str, Masses] = field(default_factory=dict)
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Rule:
    """The shares as they are: ``rating = "none"``, and what the other rules begin with.

    A round calls the three methods in this order, each once. A rule that rates only every k-th
    round returns no other merges in the rounds between; one that leaves a site out gives it the
    mass 0.

    Parameters
    ----------
    config
        The run's configuration.
    memory
        What the rule carries from round to round: values that JSON can hold, changed in place and
        saved with the run's state.
    """

    def __init__(self, config: RunConfig, memory: dict[str, Any]) -> None:
        self.config = config
        self.method = config.method
        self.memory = memory

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Return the shares of the first merge, which sites validate.

        Parameters
        ----------
        server_round
            1 for the first round.
        share
            Share of every site that trained, as ``share`` in the configuration has it.
        updates
            What these sites sent.
        """
        return share

    def others(self, server_round: int, share: Masses) -> list[Masses]:
        """Return the masses of further merges that every site validates beside the first."""
        return []

    def settle(self, server_round: int, share: Masses, reports: Reports, before: Dice) -> Settled:
        """Return what the round ends with.

        Parameters
        ----------
        server_round
            1 for the first round.
        share
            What :meth:`shares` returned.
        reports
            What each site that validated reports of the first merge and of the others.
        before
            P(t−1), the Dice that a site's report is compared with.
        """
        return Settled(share, dict.fromkeys(share, 1.0))


def present(held: Mapping[str, float], share: Mapping[str, float]) -> Masses:
    """Return what the sites of a round hold, scaled to sum to one.

    Parameters
    ----------
    held
        What each site held after the rounds before; sites that are away are left out.
    share
        Each site's share in this round. A newcomer begins with it, and all sites do where nobody
        holds anything.
    """
    now = {c: held.get(c, value) for c, value in share.items()}
    total = math.fsum(now.values())
    if not total:  # only sites without mass are here
        return dict(share)
    return now if abs(total - 1) <= ROUNDING else {c: w / total for c, w in now.items()}


def finite(dice: Dice) -> dict[str, float]:
    """Return the Dice that are numbers."""
    return {c: d for c, d in dice.items() if math.isfinite(d)}
