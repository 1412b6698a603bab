"""Makes up runs for the tests of the report."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from common.config import RunConfig
from common.options import Value
from results.report.patients import CaseScores, Measured, Patients, Picture, Transfer
from results.run_reader import RunFiles

FLAT: dict[str, Value] = {"features": "4,8,8,8,8,4", "rank": 4, "ranks": "equal", "rounds": 10}
DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
"""A PNG of one pixel."""

CALM = {
    "GE": [0.60, 0.70, 0.73, 0.75, 0.77, 0.78, 0.79, 0.80, 0.81, 0.82, 0.83],
    "Siemens": [0.50, 0.65, 0.70, 0.73, 0.75, 0.755, 0.77, 0.78, 0.79, 0.80, 0.81],
}
"""Validation of two sites that rise together, steadily."""
CALM_PENALTIES = {3: ("GE",), 7: ("Siemens",)}


def make_run(
    validation: Mapping[str, Sequence[float]] = CALM,
    penalties: Mapping[int, Sequence[str]] = CALM_PENALTIES,
    gains: Mapping[str, float] | None = None,
    path: Path = Path("run"),
    **keys: Value,
) -> RunFiles:
    """Return a run with the given validation of round 0, 1 …, and gains on test patients.

    Without ``gains`` the run is not finished.
    """
    config = RunConfig.from_flat({**FLAT, **{k.replace("_", "-"): v for k, v in keys.items()}})
    run = RunFiles(path, config, [], None)
    message = config.model.rank * run.bytes_per_rank
    lines: list[dict[str, Any]] = []
    for t in range(max(map(len, validation.values()))):
        lambda_t = config.method.lambda_0 * config.method.decay ** (t - 1) if t else 0.0
        line: dict[str, Any] = {"round": t, "lambda": lambda_t, "sites": {}, "refused": []}
        line["seconds"] = {"validate": 1.0} if t == 0 else {"train": 60.0, "validate": 5.0}
        for site, values in validation.items():
            entry: dict[str, Any] = {"bytes_up": 0, "bytes_down": 0, "validation": values[t]}
            if t:
                entry |= {"rank": config.model.rank, "examples": 100, "share": 0.5}
                entry |= {"loss": 0.5 / t, "train_s": 50.0}
                entry |= {"bytes_up": message, "bytes_down": 2 * message}
                entry["penalty"] = 1 - lambda_t if site in penalties.get(t, ()) else 1.0
            line["sites"][site] = entry
        lines.append(line)
    summary = None if gains is None else make_summary(gains)
    return RunFiles(path, config, lines, summary)


def make_summary(gains: Mapping[str, float]) -> dict[str, Any]:
    """Return a summary with these gains in mean Dice."""

    def scores(dice: float) -> dict[str, Any]:
        return {
            "dice": dict.fromkeys(("LV", "MYO", "RV", "mean"), dice),
            "hd95_mm": dict.fromkeys(("LV", "MYO", "RV", "mean"), 9.0),
        }

    sites = {
        site: {"base": scores(0.6), "test": {**scores(0.6 + gain), "cases": 4}}
        for site, gain in gains.items()
    }
    return {"method": "rate-my-lora", "rounds": 10, "sites": sites, "bytes": {}}


def make_patients(
    gains: Mapping[str, float],
    own: Mapping[str, Mapping[str, float]] | None = None,
    rounds: Sequence[tuple[int, float, float]] = (),
) -> Patients:
    """Return two patients a site, ED and ES, whose means are those of :func:`make_summary`."""
    cases = [
        CaseScores(
            site,
            patient,
            frame,
            Measured((0.6 + off,) * 3, (9.0,) * 3),
            Measured((0.6 + off + gain,) * 3, (9.0,) * 3),
        )
        for site, gain in gains.items()
        for patient, off in (("001", -0.1), ("002", 0.1))
        for frame in ("ED", "ES")
    ]
    splits = {site: {"train": 8, "val": 1, "test": 2} for site in gains}
    pictures = [Picture(site, "001", "ES", DOT) for site in gains]
    transfer = None if own is None else Transfer(10, own, rounds)
    return Patients(cases, splits, pictures, transfer)


def write_run(run: RunFiles) -> Path:
    """Write the files of a run into its folder, and return that."""
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "config.toml").write_text(tomli_w.dumps(run.config.to_flat()))
    lines = "".join(json.dumps(line) + "\n" for line in run.history)
    (run.path / "history.jsonl").write_text(lines)
    if run.summary is not None:
        (run.path / "summary.json").write_text(json.dumps(run.summary))
    return run.path
