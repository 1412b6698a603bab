"""What came to a site and what left it, added up from the site's audit log."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

from client_app.audit import LOG, OUT, PASSED


@dataclass
class Traffic:
    """The messages of one run, kind and direction."""

    messages: int = 0
    """How many went through; bytes, arrays and names are those of these messages."""
    payload_bytes: int = 0
    message_bytes: int = 0
    arrays: int = 0
    names: set[str] = field(default_factory=set)
    """Names of the numbers and texts that left with them."""
    refused: int = 0
    """How many the guard stopped."""


@dataclass
class Summary:
    """An audit log, added up."""

    traffic: dict[tuple[str, str, str], Traffic] = field(
        default_factory=lambda: defaultdict(Traffic)
    )
    """Traffic by (run, kind, direction)."""
    refusals: list[Mapping[str, Any]] = field(default_factory=list)
    """The lines of messages that the guard stopped."""
    mended: list[Mapping[str, Any]] = field(default_factory=list)
    """The lines that say what was mended in the log after a crash."""
    first: str = ""
    """Time of the first message; empty where there is none. ``last`` likewise."""
    last: str = ""


def summarise(lines: Iterable[Mapping[str, Any]]) -> Summary:
    """Add up the lines of a log."""
    summary = Summary()
    for line in lines:
        summary.first = summary.first or str(line["time"])
        summary.last = str(line["time"])
        if line["direction"] == LOG:
            summary.mended.append(line)
            continue
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
    """Return the summary as what JSON can hold."""
    return {
        "first": summary.first,
        "last": summary.last,
        "traffic": [
            {
                **dict(zip(("run", "kind", "direction"), key, strict=True)),
                **asdict(t),
                "names": sorted(t.names),
            }
            for key, t in sorted(summary.traffic.items())
        ],
        "mended": [{"time": line["time"], "note": line.get("note")} for line in summary.mended],
        "refusals": [
            {key: line[key] for key in ("time", "run", "round", "kind", "verdict")}
            for line in summary.refusals
        ],
    }


def tables(summary: Summary) -> Iterator[Table]:
    """Yield one table for each run, to be printed."""
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
    """Return the names of the numbers and texts that left, by kind of request.

    Scores of one metric share one name, such as ``test.dice.*``.
    """
    names: dict[str, set[str]] = defaultdict(set)
    for (_, kind, direction), t in summary.traffic.items():
        if direction == OUT:
            names[kind] |= {
                name.rpartition(".")[0] + ".*" if "." in name else name for name in t.names
            }
    return {kind: sorted(found) for kind, found in sorted(names.items())}
