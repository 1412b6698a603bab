"""What a run left on disk, read for the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from json import loads
from pathlib import Path
from typing import Any

from common import lora
from common.config import RunConfig
from common.errors import UserError
from common.model import build_unet, weight_bytes
from common.options import read_toml
from server_app.run_dir import RunDir
from server_app.summary import summarise

Line = Mapping[str, Any]
"""A line of ``history.jsonl``; see :class:`strategies.state.RoundRecord`."""
Points = list[tuple[int, float]]
"""(round, value), in the order of the rounds."""


HIDDEN = "(hidden)"


@dataclass(frozen=True)
class Run:
    """The files of a run.

    Attributes
    ----------
    path
        The folder, in full unless it is hidden.
    config
        As resolved when the run began.
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
        return sorted({site for line in self.history for site in line["sites"]} | set(tested))

    def entries(self, site: str) -> list[tuple[int, Mapping[str, Any]]]:
        """Return what the rounds say of a site, as (round, entry), where they say anything."""
        return [
            (line["round"], line["sites"][site]) for line in self.history if site in line["sites"]
        ]

    def series(self, site: str, key: str) -> Points:
        """Return a number of a site over the rounds in which it is known."""
        return [(t, float(e[key])) for t, e in self.entries(site) if _is_number(e.get(key))]

    def mean_series(self, key: str) -> Points:
        """Return the mean over the sites, for rounds in which every site of the run has one."""
        by_site = [dict(self.series(site, key)) for site in self.sites]
        shared = set.intersection(*map(set, by_site)) if by_site else set()
        return [(t, sum(values[t] for values in by_site) / len(by_site)) for t in sorted(shared)]

    def penalised(self, site: str) -> list[int]:
        """Return the rounds in which a site's penalty was below one."""
        return [t for t, penalty in self.series(site, "penalty") if penalty < 1]

    def score(self, site: str, model: str, metric: str, structure: str) -> float:
        """Return a test score of the summary, NaN where there is none.

        Parameters
        ----------
        site
            Its name.
        model
            ``base`` or ``test``, the result.
        metric
            ``dice`` or ``hd95_mm``.
        structure
            ``LV``, ``MYO``, ``RV`` or ``mean``.
        """
        value: Any = (self.summary or {}).get("sites", {})
        for key in (site, model, metric, structure):
            value = value.get(key) if isinstance(value, Mapping) else None
        return float(value) if _is_number(value) else math.nan

    def gains(self) -> dict[str, float]:
        """Return the gain in mean test Dice over the base, for sites that reported both."""
        found = {
            site: self.score(site, "test", "dice", "mean")
            - self.score(site, "base", "dice", "mean")
            for site in self.sites
        }
        return {site: gain for site, gain in found.items() if not math.isnan(gain)}

    @cached_property
    def traffic(self) -> Mapping[str, float]:
        """Payload ``up`` and ``down``, and ``full_weights`` for the same trainings, in bytes."""
        model = build_unet(self.config.model.channels())
        counted: Mapping[str, float] = summarise("", self.history, {}, weight_bytes(model))["bytes"]
        return counted

    @cached_property
    def bytes_per_rank(self) -> int:
        """Payload of an adapter of rank 1: 4 · Σ (c_out + c_in·k·k) over the adapted layers."""
        shapes = lora.layer_shapes(build_unet(self.config.model.channels()))
        return 4 * sum(c_out + fan_in for c_out, fan_in in shapes.values())

    def seconds(self) -> dict[str, float]:
        """Return the seconds by phase, summed over the rounds."""
        total: dict[str, float] = {}
        for line in self.history:
            for phase, value in line.get("seconds", {}).items():
                total[phase] = total.get(phase, 0.0) + value
        return total


def read_run(path: Path) -> Run:
    """Read the folder of a run, finished or not.

    Raises
    ------
    UserError
        It is not the folder of a run, or a file in it is broken.
    """
    folder = RunDir(path)
    if not folder.config.is_file():
        raise UserError(f"{path}: found no config.toml, expected the folder of a run")
    config = RunConfig.from_flat(read_toml(folder.config), str(folder.config))
    try:
        history = folder.read_history()
    except ValueError as error:
        raise UserError(f"{folder.history}: not a line of JSON for every round ({error})") from None
    if not all(map(_is_round, history)):
        raise UserError(f"{folder.history}: a line has no 'round' or 'sites'")
    return Run(path.resolve(), config, history, _read_summary(folder.summary))


def without_paths(run: Run) -> Run:
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


def _read_summary(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        summary = loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(summary, dict) or not isinstance(summary.get("sites"), dict):
        raise UserError(f"{path}: has no 'sites', expected the summary of a run")
    return summary


def _is_round(line: object) -> bool:
    return (
        isinstance(line, dict)
        and isinstance(line.get("round"), int)
        and isinstance(line.get("sites"), dict)
        and all(isinstance(entry, dict) for entry in line["sites"].values())
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
