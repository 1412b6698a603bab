"""The state that a run carries from round to round, and the record of one round."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from common import folding, lora
from common.adapter import Adapter
from common.config import RunConfig
from common.ranks import highest_rank
from common.text import NAME_LENGTH, clean
from common.weights import Parameters, Weights


@dataclass(frozen=True)
class Merged:
    """The result of a merge."""

    parameters: Parameters
    """The adapter or weights that the sites go on with."""
    fold: Adapter | None = None
    """The adapter that every site first folds into its base, if any."""


@dataclass
class RunState:
    """Everything that the next round depends on."""

    parameters: Parameters
    """The penalised re-merge of the last round; before round 1, what the run starts from."""
    server_round: int = 0
    """The last finished round; 0 before round 1."""
    previous: dict[str, float] = field(default_factory=dict)
    """P(t−1) by site: the Dice that the next round's validation is compared with."""
    ranks: dict[str, int] = field(default_factory=dict)
    """Rank of every site, fixed at the start of the run."""
    fold: Adapter | None = None
    """The adapter that the last round folded into the base, where the run's merge folds."""
    folded: dict[str, Tensor] | None = None
    """Sum of everything folded so far, a dense weight change (c_out, c_in·k·k) by layer."""
    personal: dict[str, Parameters] = field(default_factory=dict)
    """Adapters of sites that go on with one of their own in place of ``parameters``."""
    rating: dict[str, Any] = field(default_factory=dict)
    """Memory of the run's rule; see :class:`strategies.rules.base.Rule`."""
    held: dict[str, int] = field(default_factory=dict)
    """The last round in which each site trained; it still holds what it kept of that round."""
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells the run from every other; a resumed run keeps it."""
    owners: dict[str, str] = field(default_factory=dict)
    """To whom every site's name belongs; see :mod:`strategies.names`."""
    folds: int = 0
    """Number of merges that were folded into the base; a round that was dropped has none."""

    @classmethod
    def initial(cls, config: RunConfig, shapes: Mapping[str, tuple[int, int]]) -> "RunState":
        """Return the state before round 1: random A and zero B, or the weights of the base file.

        ``shapes`` has (c_out, c_in·k·k) of every adapted layer.
        """
        if config.method.trains == "weights":
            return cls(Weights())
        rank = highest_rank(config.model.ranks, config.model.rank)
        return cls(lora.drawn_adapter(config, shapes, rank))

    def settle(self, merged: Merged, server_round: int) -> None:
        """Make a round's merge the start of the next round."""
        self.parameters, self.server_round = merged.parameters, server_round
        if merged.fold is not None:
            self.fold, self.folded = merged.fold, folding.fold(self.folded, merged.fold)
            self.folds += 1

    def merged(self, site: str) -> Merged:
        """Return what a site goes on with: the run's merge, or its personal one."""
        return Merged(self.personal.get(site, self.parameters), self.fold)


@dataclass
class RoundRecord:
    """One line of ``history.jsonl``."""

    server_round: int
    """1 for the first; 0 is the base model's validation."""
    lambda_t: float = 0.0
    """λ of the round."""
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts by site, those of the phases that it completed: ``rank``, ``examples``, ``share``,
    ``penalty`` (the factor on its share), ``removed`` (the part of its share that the re-merge took
    away), ``validation`` (P), ``previous``, ``start`` and ``local`` (Dice of what it started from
    and of its own adapter), ``loss``, ``train_s``, ``bytes_up``, ``bytes_down``; ``norm_ratio``,
    ``agreement`` and ``unrated`` where the run screens; ``rates`` where the site rates others;
    ``held`` where sites keep something (the round of which it must hold it; 0 for none)."""
    refused: list[dict[str, str]] = field(default_factory=list)
    """``{"site", "phase", "reason"}`` for everything that was left out."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Duration of every phase."""
    dropped: str = ""
    """Why the round ended without a merge; empty where it has one."""
    audit: dict[str, str] = field(default_factory=dict)
    """By site the hash of the last line in its audit log, as its last reply of the round has it."""

    def note(self, site: str, **facts: Any) -> None:
        """Add facts to a site's entry."""
        self.sites.setdefault(site, {}).update(facts)

    def add_bytes(self, site: str, *, up: int = 0, down: int = 0) -> None:
        """Add payload that a site sent (``up``) or was sent (``down``)."""
        entry = self.sites.setdefault(site, {})
        entry["bytes_up"] = entry.get("bytes_up", 0) + up
        entry["bytes_down"] = entry.get("bytes_down", 0) + down

    def refuse(self, site: str, phase: str, reason: str) -> None:
        """Record why something of a site was left out of a phase; both texts may be the site's."""
        site, reason = clean(site, NAME_LENGTH), clean(reason)
        self.refused.append({"site": site, "phase": phase, "reason": reason})

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``history.jsonl``."""
        return {
            "round": self.server_round,
            "lambda": self.lambda_t,
            "sites": dict(sorted(self.sites.items())),
            "refused": self.refused,
            "seconds": self.seconds,
            **({"dropped": self.dropped} if self.dropped else {}),
            "audit": dict(sorted(self.audit.items())),
        }
