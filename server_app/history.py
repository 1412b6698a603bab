"""Numbers from the lines of a run's history."""

from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]
"""A line of ``history.jsonl``, that is a round; see :class:`strategies.state.RoundRecord`."""
Points = list[tuple[int, float]]
"""Pairs (round, value) in the order of the rounds."""


def sites_of(history: Sequence[Line]) -> list[str]:
    """Return the names of all sites in a history, sorted."""
    return sorted({site for line in history for site in line["sites"]})


def series(history: Sequence[Line], site: str, key: str) -> Points:
    """Return a site's values under ``key``, for the rounds that have one."""
    entries = ((line["round"], line["sites"].get(site, {})) for line in history)
    return [(t, float(entry[key])) for t, entry in entries if entry.get(key) is not None]


def total(line: Line, key: str) -> int:
    """Return the sum over the sites of a round's bytes under ``key``."""
    return sum(entry.get(key, 0) for entry in line["sites"].values())


def penalised(history: Sequence[Line], site: str) -> list[int]:
    """Return the rounds in which a site's penalty was below one."""
    return [t for t, penalty in series(history, site, "penalty") if penalty < 1]
