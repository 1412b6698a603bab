"""The lines of a run's history, and a site's numbers over the rounds."""

from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]
"""A line of ``history.jsonl``; see :class:`strategies.state.RoundRecord`."""
Points = list[tuple[int, float]]
"""(round, value), in the order of the rounds."""


def sites_of(history: Sequence[Line]) -> list[str]:
    """Return the names of the sites that a history speaks of, sorted."""
    return sorted({site for line in history for site in line["sites"]})


def series(history: Sequence[Line], site: str, key: str) -> Points:
    """Return a number of a site over the rounds in which it is known."""
    entries = ((line["round"], line["sites"].get(site, {})) for line in history)
    return [(t, float(entry[key])) for t, entry in entries if entry.get(key) is not None]


def penalised(history: Sequence[Line], site: str) -> list[int]:
    """Return the rounds in which a site's penalty was below one."""
    return [t for t, penalty in series(history, site, "penalty") if penalty < 1]
