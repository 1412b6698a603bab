"""What a run carries from round to round, and what it records of each."""

from dataclasses import dataclass, field
from typing import Any

from common.adapter import Adapter


@dataclass
class RunState:
    """All that the next round depends on.

    Attributes
    ----------
    adapter
        The penalised re-merge of the last round; the initial adapter before round 1.
    server_round
        The last finished round; 0 before round 1.
    previous
        P(t−1) by site: what the next round's validation is compared with.
    ranks
        By site, fixed at the start of the run.
    """

    adapter: Adapter
    server_round: int = 0
    previous: dict[str, float] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)


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
        By site: ``rank``, ``examples``, ``share``, ``weight``, ``validation`` (P), ``previous``,
        ``local`` (Dice of its own adapter), ``loss``, ``train_s``, ``bytes_up``, ``bytes_down``,
        as far as it got; ``norm_ratio``, ``agreement`` and ``unrated`` where the run screens.
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
