"""What a run carries from round to round, and what it records of each."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from common import folding, lora
from common.adapter import Adapter
from common.config import RunConfig
from common.weights import Parameters, Weights
from strategies.ranks import highest_rank


@dataclass(frozen=True)
class Merged:
    """What a merge gives.

    Attributes
    ----------
    parameters
        What the sites go on with.
    fold
        What every site adds to its base before that, if anything.
    """

    parameters: Parameters
    fold: Adapter | None = None


@dataclass
class RunState:
    """Everything that the next round depends on.

    Attributes
    ----------
    parameters
        The penalised re-merge of the last round; what the run starts from before round 1.
    server_round
        The last finished round; 0 before round 1.
    previous
        P(t−1) by site: what the next round's validation is compared with.
    ranks
        Rank of every site, fixed at the start of the run.
    fold
        What the last round added to the base, where the run's merge adds something.
    folded
        All that was added to the base so far, dense by layer, the last included.
    personal
        What single sites go on with in place of ``parameters``, by site.
    rating
        What the run's rule carries from round to round; see :mod:`strategies.rules`.
    held
        By site, the last round in which it trained; it holds what it kept of that round.
    run_id
        Tells the run from every other; drawn anew for a new run.
    """

    parameters: Parameters
    server_round: int = 0
    previous: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    fold: Adapter | None = None
    folded: dict[str, Tensor] | None = None
    personal: dict[str, Parameters] = field(default_factory=dict)
    rating: dict[str, Any] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))

    @classmethod
    def initial(cls, config: RunConfig, shapes: Mapping[str, tuple[int, int]]) -> "RunState":
        """Return what a run starts from: random A and zero B, or the weights of the base file.

        Parameters
        ----------
        config
            The run's configuration.
        shapes
            (c_out, c_in·k·k) of every adapted layer.
        """
        if config.method.trains == "weights":
            return cls(Weights())
        rank = highest_rank(config.model.ranks, config.model.rank)
        return cls(lora.drawn_adapter(config, shapes, rank))

    @property
    def folds(self) -> int:
        """How many merges were added to the base."""
        return 0 if self.folded is None else self.server_round

    def settle(self, merged: Merged, server_round: int) -> None:
        """Go on with a round's merge."""
        self.parameters, self.server_round = merged.parameters, server_round
        if merged.fold is not None:
            self.fold, self.folded = merged.fold, folding.fold(self.folded, merged.fold)

    def merged(self, site: str) -> Merged:
        """Return what a site goes on with."""
        return Merged(self.personal.get(site, self.parameters), self.fold)


@dataclass
class RoundRecord:
    """One line of ``history.jsonl``.

    Attributes
    ----------
    server_round
        1 for the first; 0 is the base model's validation.
    lambda_t
        λ of the round.
    sites
        By site: ``rank``, ``examples``, ``share``, ``penalty`` (the factor on its share),
        ``removed`` (the part of its share that the re-merge took away), ``validation`` (P),
        ``previous``, ``start`` and ``local`` (Dice of what it started from and of its own
        adapter), ``loss``, ``train_s``, ``bytes_up``, ``bytes_down``, as far as it got;
        ``norm_ratio``, ``agreement`` and ``unrated`` where the run screens, ``rates`` where it
        rates others, ``held`` (the round whose factors or merges the site
        must have kept, 0 for none) where sites keep some.
    refused
        ``{"site", "phase", "reason"}`` for everything that was left out.
    """

    server_round: int
    lambda_t: float = 0.0
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: list[dict[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, site: str, **facts: Any) -> None:
        """Add facts to a site's entry."""
        self.sites.setdefault(site, {}).update(facts)

    def add_bytes(self, site: str, *, up: int = 0, down: int = 0) -> None:
        """Count payload that a site sent or was sent."""
        entry = self.sites.setdefault(site, {})
        entry["bytes_up"] = entry.get("bytes_up", 0) + up
        entry["bytes_down"] = entry.get("bytes_down", 0) + down

    def refuse(self, site: str, phase: str, reason: str) -> None:
        """Record that something of a site was left out."""
        self.refused.append({"site": site, "phase": phase, "reason": reason})

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``history.jsonl``."""
        return {
            "round": self.server_round,
            "lambda": self.lambda_t,
            "sites": dict(sorted(self.sites.items())),
            "refused": self.refused,
            "seconds": self.seconds,
        }
