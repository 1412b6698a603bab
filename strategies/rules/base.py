"""The interface of every rule, which is also the rule that changes nothing."""

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
"""Dice or masses whose difference is at most this count as equal."""


@dataclass(frozen=True)
class Settled:
    """The decision of a rule at the end of a round."""

    masses: Masses
    """Mass of every site that trained, in the merge that the next round starts from."""
    factors: Masses
    """The factor on each site's share: under Eq. 1 its penalty; 1 changes nothing."""
    lambda_t: float = 0.0
    """λ of the round."""
    personal: Mapping[str, Masses] = field(default_factory=dict)
    """Masses of one more merge for each site that goes on with a merge of its own."""
    notes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further facts for the round's record, by site."""


class Rule:
    """Keeps the shares as they are (``rating = "none"``); the base class of the other rules.

    A round calls :meth:`shares`, :meth:`others` and :meth:`settle` in this order, each once. A rule
    leaves a site out by giving it the mass 0.

    Parameters
    ----------
    config
        The run's configuration.
    memory
        What the rule carries from round to round: values that JSON can hold, which the rule
        changes in place and the run saves with its state.
    """

    def __init__(self, config: RunConfig, memory: dict[str, Any]) -> None:
        self.config = config
        self.method = config.method
        self.memory = memory

    def shares(self, server_round: int, share: Masses, updates: Mapping[str, Update]) -> Masses:
        """Return the shares of the first merge, which sites validate.

        ``share`` has the share of every site that trained, as the key ``share`` sets it, and
        ``updates`` what these sites sent. ``server_round`` counts from 1.
        """
        return share

    def others(self, server_round: int, share: Masses) -> list[Masses]:
        """Return the masses of further merges that every site validates beside the first."""
        return []

    def settle(self, server_round: int, share: Masses, reports: Reports, before: Dice) -> Settled:
        """Return the masses that the round ends with.

        ``share`` is what :meth:`shares` returned, ``reports`` each site's validation of the first
        merge and of the others, and ``before`` P(t−1) by site.
        """
        return Settled(share, dict.fromkeys(share, 1.0))


def present(held: Mapping[str, float], share: Mapping[str, float]) -> Masses:
    """Return the masses that the present sites hold from earlier rounds, scaled to sum to one.

    Sites of ``held`` that are away are left out. A newcomer begins with its ``share`` of this
    round, and all sites do where the sum is 0.
    """
    now = {c: held.get(c, value) for c, value in share.items()}
    total = math.fsum(now.values())
    if not total:
        return dict(share)
    return now if abs(total - 1) <= ROUNDING else {c: w / total for c, w in now.items()}


def finite(dice: Dice) -> dict[str, float]:
    """Return the Dice without those that are NaN or infinite."""
    return {c: d for c, d in dice.items() if math.isfinite(d)}
