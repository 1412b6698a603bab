"""What a run left on disk, read once for all that is made of runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from json import loads
from pathlib import Path
from typing import Any

import numpy as np

from common import lora
from common.config import RunConfig
from common.errors import UserError
from common.labels import STRUCTURES
from common.model import build_unet, weight_bytes
from server_app.history import Line, Points, penalised, series, sites_of
from server_app.run_dir import RunDir
from server_app.summary import traffic

COLUMNS = (*STRUCTURES, "mean")
"""What test scores are given for: every structure, and their mean."""
REFUSAL = ("site", "phase", "reason")
"""What history and summary say of everything that was left out."""
HIDDEN = "(hidden)"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes
    ----------
    path
        The folder, in full unless it is hidden.
    config
        The configuration as resolved when the run began.
    history
        Finished rounds, the base model's validation first; empty before that.
    summary
        None while the run goes on, or when it stopped before its end.
    """

    path: Path
    config: RunConfig
    history: Sequence[Line]
    summary: Mapping[str, Any] | None

    @cached_property
    def rounds(self) -> list[Line]:
        """The finished rounds, without the base model's validation."""
        return [line for line in self.history if line["round"] > 0]

    @cached_property
    def sites(self) -> list[str]:
        """Names of all sites that took part, sorted."""
        tested = self.summary["sites"] if self.summary else {}
        return sorted({*sites_of(self.history), *tested})

    def entries(self, site: str) -> list[tuple[int, Mapping[str, Any]]]:
        """Return what the rounds say of a site, as (round, entry), where they say anything."""
        return [
            (line["round"], line["sites"][site]) for line in self.history if site in line["sites"]
        ]

    def series(self, site: str, key: str) -> Points:
        """Return a number of a site over the rounds in which it is known."""
        return series(self.history, site, key)

    def trainings(self, site: str) -> list[Mapping[str, Any]]:
        """Return a site's entries of the rounds whose merge holds its adapter."""
        return [entry for t, entry in self.entries(site) if t > 0 and "penalty" in entry]

    def mean_series(self, key: str) -> Points:
        """Return the mean over the sites, for rounds in which every site of the run has one."""
        by_site = [dict(self.series(site, key)) for site in self.sites]
        shared = set.intersection(*map(set, by_site)) if by_site else set()
        return [(t, sum(values[t] for values in by_site) / len(by_site)) for t in sorted(shared)]

    def penalised(self, site: str) -> list[int]:
        """Return the rounds in which a site's penalty was below one."""
        return penalised(self.history, site)

    def score(self, site: str, model: str, metric: str, structure: str) -> float:
        """Return a test score of the summary, NaN where there is none.

        Parameters
        ----------
        site
            The site's name.
        model
            ``base`` or ``test``, the result.
        metric
            ``dice`` or ``hd95_mm``.
        structure
            ``LV``, ``MYO``, ``RV`` or ``mean``.
        """
        value = self._tested(site).get(model, {}).get(metric, {}).get(structure)
        return math.nan if value is None else float(value)

    def cases(self, site: str) -> int | None:
        """Return how many test cases a site reported; None where it reported none."""
        found: int | None = self._tested(site).get("test", {}).get("cases")
        return found

    def _tested(self, site: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = (self.summary or {}).get("sites", {}).get(site, {})
        return found

    def gains(self) -> dict[str, float]:
        """Return the gain in mean test Dice over the base, for sites that reported both."""
        found = {
            site: self.score(site, "test", "dice", "mean")
            - self.score(site, "base", "dice", "mean")
            for site in self.sites
        }
        return {site: gain for site, gain in found.items() if not math.isnan(gain)}

    @cached_property
    def traffic(self) -> Mapping[str, Any]:
        """Payload ``up`` and ``down``, and ``full_weights`` for the same trainings, in bytes."""
        return traffic(self.history, weight_bytes(build_unet(self.config.model.channels())))

    @cached_property
    def bytes_per_rank(self) -> int:
        """Payload of an adapter of rank 1: 4 · Σ (c_out + c_in·k·k) over the adapted layers."""
        shapes = lora.layer_shapes(build_unet(self.config.model.channels()))
        return 4 * sum(c_out + fan_in for c_out, fan_in in shapes.values())

    def seconds(self) -> dict[str, float]:
        """Return the seconds by phase, summed over the rounds."""
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
        It is not the folder of a run, or a file in it is broken.
    """
    folder = RunDir(path)
    if not folder.config.is_file():
        raise UserError(f"{path}: found no config.toml, expected the folder of a run")
    return RunFiles(
        path.resolve(), folder.read_config(), read_history(folder), _read_summary(folder.summary)
    )


def read_history(folder: RunDir) -> list[Line]:
    """Read and check a run's history; an empty one where it has none yet.

    Raises
    ------
    UserError
        The file is not what a run writes.
    """
    try:
        lines = folder.read_history()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder.history}: not a line of JSON for every round ({error})") from None
    if not all(map(_is_round, lines)):
        raise UserError(
            f"{folder.history}: a line is not a round's, it has no 'round' or 'sites' or holds "
            "something else than a run writes"
        )
    return [{"lambda": 0.0, "refused": [], "seconds": {}, **line} for line in lines]


def without_paths(run: RunFiles) -> RunFiles:
    """Return the run without the folders of the machine it ran on.

    Of its own folder and of the base file the names stay, and keys that were left at their
    defaults, which say nothing of a machine.
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
    """Return the mean of the values that are numbers, NaN where none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _read_summary(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary = loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(summary, dict) or not isinstance(summary.get("sites"), dict):
        raise UserError(f"{path}: has no 'sites', expected the summary of a run")
    if not all(map(_is_tested, summary["sites"].values())):
        raise UserError(f"{path}: 'sites' holds something else than test scores")
    if not (
        _are_numbers(summary.get("bytes", {}))
        and _are_numbers({"seconds": summary.get("seconds")})
        and _are_refusals(summary.get("refused", []))
        and isinstance(summary.get("versions", {}), dict)
    ):
        raise UserError(f"{path}: holds something else than the summary of a run")
    return summary


def _is_round(line: object) -> bool:
    return (
        isinstance(line, dict)
        and isinstance(line.get("round"), int)
        and _is_number(line.get("lambda", 0.0))
        and isinstance(line.get("sites"), dict)
        and all(
            isinstance(entry, dict) and not any(isinstance(v, str | list) for v in entry.values())
            for entry in line["sites"].values()
        )
        and _are_numbers(line.get("seconds", {}))
        and _are_refusals(line.get("refused", []))
    )


def _is_tested(site: object) -> bool:
    """Say whether this is ``{"base": {"dice": {"LV": …}, "hd95_mm": {…}}, "test": {…}}``."""
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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
