"""What came to a site and what left it, added up from the site's own log."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from client_app.audit import OUT, PASSED


@dataclass
class Traffic:
    """The messages of one kind and direction.

    Attributes
    ----------
    messages, payload_bytes, message_bytes
        Of those that went through.
    arrays
        How many arrays they had.
    names
        Of the metrics and texts in them.
    refused
        How many were stopped.
    """

    messages: int = 0
    payload_bytes: int = 0
    message_bytes: int = 0
    arrays: int = 0
    names: set[str] = field(default_factory=set)
    refused: int = 0


@dataclass
class Summary:
    """A whole log.

    Attributes
    ----------
    traffic
        By (run, kind, direction).
    refusals
        The lines of messages that were stopped.
    first, last
        Time of the first and the last message; empty where there is none.
    """

    traffic: dict[tuple[str, str, str], Traffic] = field(
        default_factory=lambda: defaultdict(Traffic)
    )
    refusals: list[Mapping[str, Any]] = field(default_factory=list)
    first: str = ""
    last: str = ""


def summarise(lines: Iterable[Mapping[str, Any]]) -> Summary:
    """Add up the lines of a log."""
    summary = Summary()
    for line in lines:
        summary.first = summary.first or str(line["time"])
        summary.last = str(line["time"])
        found = summary.traffic[str(line["run"]), str(line["kind"]), str(line["direction"])]
        if line["verdict"] != PASSED:
            found.refused += 1
            summary.refusals.append(line)
            continue
        found.messages += 1
        found.payload_bytes += line.get("payload_bytes", 0)
        found.message_bytes += line.get("message_bytes", 0)
        found.arrays += len(line.get("arrays", ()))
        if line["direction"] == OUT:
            for part in ("metrics", "config"):
                for record in line.get(part, {}).values():
                    found.names |= set(record)
    return summary


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the summary for other programs."""
    return {
        "first": summary.first,
        "last": summary.last,
        "traffic": [
            {
                "run": run,
                "kind": kind,
                "direction": direction,
                **asdict(t),
                "names": sorted(t.names),
            }
            for (run, kind, direction), t in sorted(summary.traffic.items())
        ],
        "refusals": [
            {key: line[key] for key in ("time", "run", "round", "kind", "verdict")}
            for line in summary.refusals
        ],
    }


def tables(summary: Summary) -> Iterator[Table]:
    """Yield a table a run, for people."""
    for run in sorted({run for run, _, _ in summary.traffic}):
        view = Table(title=f"run {run}", title_justify="left")
        for name in ("request", "direction"):
            view.add_column(name)
        for name in ("messages", "refused", "arrays", "payload MiB", "bytes"):
            view.add_column(name, justify="right")
        for (of, kind, direction), t in sorted(summary.traffic.items()):
            if of == run:
                view.add_row(
                    *(kind, direction, str(t.messages), str(t.refused), str(t.arrays)),
                    *(f"{t.payload_bytes / 2**20:.3f}", str(t.message_bytes)),
                )
        yield view


def beside_adapters(summary: Summary) -> dict[str, list[str]]:
    """Return the names of the numbers and texts that left, by request.

    Scores of one kind become one name (``test.dice.*``).
    """
    names: dict[str, set[str]] = defaultdict(set)
    for (_, kind, direction), t in summary.traffic.items():
        if direction == OUT:
            names[kind] |= {
                name.rpartition(".")[0] + ".*" if "." in name else name for name in t.names
            }
    return {kind: sorted(found) for kind, found in sorted(names.items())}
