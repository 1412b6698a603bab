"""Reads and checks the files of a run, for reports, comparisons and exports."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from common import lora
from common.config import RunConfig
from common.errors import UserError
from common.files import parse_json
from common.labels import STRUCTURES
from common.model import build_unet, weight_bytes
from server_app.history import Line, Points, penalised, series, sites_of
from server_app.run_dir import RunDir
from server_app.summary import traffic

COLUMNS = (*STRUCTURES, "mean")
"""The columns of test scores: every structure, and their mean."""
REFUSAL = ("site", "phase", "reason")
"""The keys with which history and summary describe an answer that was left out."""
HIDDEN = "(hidden)"
"""Stands in place of a path that a report must not show."""


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run hold, whether it is finished or not."""

    path: Path
    """The full path of the run's folder, or its bare name where paths are hidden."""
    config: RunConfig
    """The configuration as resolved when the run began."""
    history: Sequence[Line]
    """One line for every finished round; round 0 is the base model's validation."""
    summary: Mapping[str, Any] | None
    """``summary.json``; None while the run goes on, or where it stopped before its end."""

    @cached_property
    def rounds(self) -> list[Line]:
        """The finished rounds without round 0, the base model's validation."""
        return [line for line in self.history if line["round"] > 0]

    @cached_property
    def sites(self) -> list[str]:
        """Names of all sites that took part, sorted."""
        tested = self.summary["sites"] if self.summary else {}
        return sorted({*sites_of(self.history), *tested})

    @cached_property
    def deployed(self) -> bool:
        """Whether sites of the run keep audit logs, as only deployed ones do.

        Each of those splits its patients by its own settings, and the run's count for nothing.
        """
        return any(line.get("audit") for line in self.history)

    def entries(self, site: str) -> list[tuple[int, Mapping[str, Any]]]:
        """Return (round, entry) for every round that has an entry of the site."""
        return [
            (line["round"], line["sites"][site]) for line in self.history if site in line["sites"]
        ]

    def series(self, site: str, key: str) -> Points:
        """Return (round, value) for every round in which the site has a value under ``key``."""
        return series(self.history, site, key)

    def trainings(self, site: str) -> list[Mapping[str, Any]]:
        """Return the site's entries for the rounds in which its adapter was merged."""
        return [entry for t, entry in self.entries(site) if t > 0 and "penalty" in entry]

    def mean_series(self, key: str) -> Points:
        """Return (round, mean over the sites) for rounds in which every site has a value."""
        by_site = [dict(self.series(site, key)) for site in self.sites]
        shared = set.intersection(*map(set, by_site)) if by_site else set()
        return [(t, sum(values[t] for values in by_site) / len(by_site)) for t in sorted(shared)]

    def penalised(self, site: str) -> list[int]:
        """Return the rounds in which a site's penalty was below one."""
        return penalised(self.history, site)

    def score(self, site: str, model: str, metric: str, structure: str) -> float:
        """Return a site's test score from the summary, NaN where there is none.

        ``model`` is ``base`` or ``test`` (the run's result), ``metric`` is ``dice`` or
        ``hd95_mm``, and ``structure`` is one of ``COLUMNS``.
        """
        value = self._tested(site).get(model, {}).get(metric, {}).get(structure)
        return math.nan if value is None else float(value)

    def cases(self, site: str) -> int | None:
        """Return how many test cases the site reported; None where it reported no number."""
        found: int | None = self._tested(site).get("test", {}).get("cases")
        return found

    def _tested(self, site: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.summary or {}).get("sites", {}).get(site, {})
        return found

    def gains(self) -> dict[str, float]:
        """Return each site's gain in mean test Dice over the base, where it reported both."""
        found = {}
        for site in self.sites:
            base, test = (self.score(site, model, "dice", "mean") for model in ("base", "test"))
            if not math.isnan(test - base):
                found[site] = test - base
        return found

    @cached_property
    def traffic(self) -> Mapping[str, Any]:
        """Bytes sent ``up`` and ``down``, and those of averaging ``full_weights`` instead."""
        return traffic(self.history, weight_bytes(build_unet(self.config.model.channels())))

    @cached_property
    def bytes_per_rank(self) -> int:
        """Bytes of an adapter of rank 1: 4 · Σ (c_out + c_in·k·k) over the adapted layers."""
        shapes = lora.layer_shapes(build_unet(self.config.model.channels()))
        return 4 * sum(c_out + fan_in for c_out, fan_in in shapes.values())

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase, summed over the rounds."""
        total: dict[str, float] = {}
        for line in self.history:
            for phase, value in line["seconds"].items():
                total[phase] = total.get(phase, 0.0) + value
        return total


def read_run(path: Path) -> RunFiles:
    """Read the folder of a run, finished or not.

    Raises
    ------
    UserError
        ``path`` is not the folder of a run, or a file in it is broken.
    """
    folder = RunDir(path)
    if not folder.config.is_file():
        raise UserError(f"{path}: found no config.toml, expected the folder of a run")
    return RunFiles(
        path.resolve(), folder.read_config(), read_history(folder), _read_summary(folder.summary)
    )


def read_history(folder: RunDir) -> list[Line]:
    """Read and check a run's history; return an empty one where there is none yet.

    Raises
    ------
    UserError
        The file is not one that a run writes; the line is named.
    """
    lines = folder.read_history()
    for number, line in enumerate(lines, start=1):
        if not _is_round(line):
            raise UserError(
                f"{folder.history}: line {number} does not describe a round: 'sites' is missing, "
                "or a value has the wrong type"
            )
    return [{"lambda": 0.0, "refused": [], "seconds": {}, **line} for line in lines]


def without_paths(run: RunFiles) -> RunFiles:
    """Return the run with the paths of the machine it ran on hidden.

    The names of its own folder and of the base file stay. So do keys that have their default
    value, which tells nothing about a machine.
    """
    flat, defaults = run.config.to_flat(), RunConfig().to_flat()
    hidden = {
        key: HIDDEN
        for key in RunConfig.keys_that_affect("input", "place")
        if isinstance(flat[key], str) and flat[key] != defaults[key]
    }
    base = {"base-model": Path(run.config.base_model).name}
    config = RunConfig.from_flat({**flat, **hidden, **base})
    return replace(run, path=Path(run.path.resolve().name), config=config)


def mean(values: Iterable[float]) -> float:
    """Return the mean of the values that are not NaN; NaN where all are."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _read_summary(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary = parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(summary, dict) or not isinstance(summary.get("sites"), dict):
        raise UserError(f"{path}: has no 'sites', expected the summary of a run")
    if not all(map(_is_tested, summary["sites"].values())):
        raise UserError(f"{path}: 'sites' holds something other than test scores")
    if not (
        _are_numbers(summary.get("bytes", {}))
        and _are_numbers({"seconds": summary.get("seconds")})
        and _are_refusals(summary.get("refused", []))
        and isinstance(summary.get("versions", {}), dict)
    ):
        raise UserError(
            f"{path}: a value of 'bytes', 'seconds', 'refused' or 'versions' has the wrong type"
        )
    return summary


def _is_round(line: object) -> bool:
    return (
        isinstance(line, dict)
        and isinstance(line.get("round"), int)
        and _is_number(line.get("lambda", 0.0))
        and isinstance(line.get("sites"), dict)
        and all(map(_is_entry, line["sites"].values()))
        and isinstance(line.get("seconds", {}), dict)
        and all(map(_is_number, line.get("seconds", {}).values()))
        and _are_refusals(line.get("refused", []))
        and _are_texts(line.get("audit", {}))
        and isinstance(line.get("dropped", ""), str)
    )


def _is_entry(entry: object) -> bool:
    """Return whether a site's part of a round has numbers alone, or None for what has no value."""
    if not isinstance(entry, dict):
        return False
    counts = (entry.get(key, 0) for key in ("bytes_up", "bytes_down"))
    facts = (value for key, value in entry.items() if key != "rates")
    return (
        _are_numbers(entry.get("rates", {}))
        and all(map(_is_number, counts))
        and all(value is None or isinstance(value, int | float) for value in facts)
    )


def _is_tested(site: object) -> bool:
    """Return whether ``site`` is ``{"base": {"dice": {"LV": …}, "hd95_mm": {…}}, "test": {…}}``."""
    if not isinstance(site, dict):
        return False
    models = [site.get(model, {}) for model in ("base", "test")]
    return all(isinstance(model, dict) for model in models) and all(
        _are_numbers(model.get(metric, {})) for model in models for metric in ("dice", "hd95_mm")
    )


def _are_refusals(found: object) -> bool:
    return isinstance(found, list) and all(
        isinstance(out, dict) and all(isinstance(out.get(k), str) for k in REFUSAL) for out in found
    )


def _are_numbers(found: object) -> bool:
    return isinstance(found, dict) and all(v is None or _is_number(v) for v in found.values())


def _are_texts(found: object) -> bool:
    return isinstance(found, dict) and all(isinstance(text, str) for text in found.values())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
