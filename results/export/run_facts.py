"""What the files of a run say about it, read for people; nothing is made up that is not there."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError
from common.labels import STRUCTURES
from server_app.run_dir import RunDir

COLUMNS = (*STRUCTURES, "mean")

Metrics = Mapping[str, Mapping[str, float | None]]
"""``{"dice": {"LV": …}, "hd95_mm": {…}}`` as ``summary.json`` has it."""


@dataclass(frozen=True)
class SiteFacts:
    """A site's numbers; None and empty where the run's files do not have them."""

    name: str
    rank: int | None = None
    examples: int | None = None
    rounds: int = 0
    cases: int | None = None
    base: Metrics = field(default_factory=dict)
    result: Metrics = field(default_factory=dict)


@dataclass(frozen=True)
class RunFacts:
    """What a run left on disk.

    Attributes
    ----------
    method
        As ``summary.json`` calls it; empty without one.
    sites
        Every site that took part, by name.
    history
        Lines of ``history.jsonl``.
    refused
        What was left out of the final test.
    traffic, versions
        As ``summary.json`` has them.
    seconds
        Wall time, as ``summary.json`` has it.
    """

    method: str
    sites: tuple[SiteFacts, ...]
    history: tuple[Mapping[str, Any], ...]
    refused: tuple[Mapping[str, str], ...]
    traffic: Mapping[str, float | None]
    versions: Mapping[str, str]
    seconds: float | None


def read_run(run: RunDir) -> RunFacts:
    """Read the history and the summary of a run; a run may have ended before its summary.

    Raises
    ------
    UserError
        A file is not what a run writes.
    """
    try:
        history = tuple(run.read_history())
        trained = _training(history)
        for line in history:
            number(line["lambda"], 4)
            for entry in line["sites"].values():
                _validation(entry)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run.history}: not the history of a run ({_said(error)})") from None
    try:
        summary = json.loads(run.summary.read_text("utf-8")) if run.summary.is_file() else {}
        tested = {name: _tested(entry) for name, entry in summary.get("sites", {}).items()}
        facts = RunFacts(
            method=str(summary.get("method", "")),
            sites=tuple(
                SiteFacts(name, **trained.get(name, {}), **tested.get(name, {}))
                for name in sorted({*trained, *tested})
            ),
            history=history,
            refused=tuple(summary.get("refused", ())),
            traffic=dict(summary.get("bytes", {})),
            versions={k: str(v) for k, v in dict(summary.get("versions", {})).items()},
            seconds=_seconds(summary.get("seconds")),
        )
        result_rows(facts), traffic_lines(facts), refusals(facts)  # fail here if they must
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{run.summary}: not the summary of a run ({_said(error)})") from None
    return facts


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _training(history: tuple[Mapping[str, Any], ...]) -> dict[str, dict[str, Any]]:
    """Return rank, examples and rounds by site; a site that only validated has none."""
    sites: dict[str, dict[str, Any]] = {}
    for line in history:
        for name, entry in line["sites"].items():
            site = sites.setdefault(name, {"rounds": 0})
            if line["round"] > 0 and "penalty" in entry:
                site["rounds"] += 1
                site["rank"] = entry.get("rank")
                site["examples"] = entry.get("examples")
    return sites


def _tested(entry: Mapping[str, Any]) -> dict[str, Any]:
    base, result = entry.get("base", {}), entry.get("test", {})
    return {
        "cases": result.get("cases"),
        "base": {metric: base[metric] for metric in ("dice", "hd95_mm") if metric in base},
        "result": {metric: result[metric] for metric in ("dice", "hd95_mm") if metric in result},
    }


def _seconds(value: Any) -> float | None:
    """Return the wall time, given as a number or by phase."""
    if isinstance(value, Mapping):
        return float(sum(value.values()))
    return None if value is None else float(value)


def number(value: float | None, digits: int) -> str:
    """Return a number for a table; a dash where there is none."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def result_rows(facts: RunFacts) -> list[list[str]]:
    """Return per site and structure: n, Dice of base and result, HD95 of base and result."""
    return [
        [
            site.name,
            "–" if site.cases is None else str(site.cases),
            structure,
            *(
                number(metrics.get(metric, {}).get(structure), digits)
                for metric, digits in (("dice", 3), ("hd95_mm", 1))
                for metrics in (site.base, site.result)
            ),
        ]
        for site in facts.sites
        if site.result
        for structure in COLUMNS
    ]


def round_rows(facts: RunFacts) -> list[list[str]]:
    """Return per round: λ, and P and penalty of every site."""
    return [
        [
            str(line["round"]),
            number(line["lambda"], 4) if line["round"] else "–",
            *(_validation(line["sites"].get(site.name, {})) for site in facts.sites),
        ]
        for line in facts.history
    ]


def _validation(entry: Mapping[str, Any]) -> str:
    rated = number(entry.get("validation"), 3)
    return f"{rated} ({number(entry['penalty'], 3)})" if "penalty" in entry else rated


def refusals(facts: RunFacts) -> list[str]:
    """Return what was left out, a line each."""
    left_out = [
        (f"round {line['round']}", out) for line in facts.history for out in line.get("refused", ())
    ]
    left_out += [("at the end", out) for out in facts.refused]
    return [f"{when}, {out['phase']}, {out['site']}: {out['reason']}" for when, out in left_out]


def traffic_lines(facts: RunFacts) -> list[str]:
    """Return lines on traffic and time."""
    lines = []
    moved = facts.traffic
    if moved.get("up") is not None and moved.get("down") is not None:
        line = f"Payload of all rounds: {moved['up']:,} bytes up, {moved['down']:,} bytes down"
        if moved.get("full_weights"):
            line += f"; averaging full weights would send {moved['full_weights']:,} bytes"
        if moved.get("ratio"):
            line += f", of which this is {number(100 * (moved['ratio'] or 0), 1)} %"
        lines.append(line + ".")
    else:
        lines.append("Traffic is not recorded.")
    if facts.seconds is None:
        lines.append("The run's duration is not recorded.")
    else:
        lines.append(f"The rounds took {number(facts.seconds, 0)} s.")
    return lines
