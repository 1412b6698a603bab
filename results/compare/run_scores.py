"""The scores of a finished run, sorted into in-client and cross-client."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from common.errors import UserError
from common.files import parse_json
from common.labels import STRUCTURES
from results.compare.evaluate_run import ADAPTED, BASE, LAST_LOCAL, MERGED, PERSONAL
from results.compare.folder import JobFolder
from results.compare.plan import Job
from results.run_reader import COLUMNS, RunFiles, mean, read_run


@dataclass(frozen=True)
class Score:
    """The scores of one model on one case, given by its site, patient and frame."""

    model: str
    """The kind of model; see :class:`results.compare.evaluate_run.ModelFiles`."""
    origin: str
    """The site that the model belongs to; empty where it belongs to all sites."""
    site: str
    patient: str
    frame: str
    dice: tuple[float, ...]
    """Dice of LV, MYO and RV; NaN where there is none."""
    hd95_mm: tuple[float, ...]
    """HD95 of the same structures; NaN where there is none."""


@dataclass(frozen=True)
class Finished:
    """A finished run with its scores."""

    job: Job
    scores: Sequence[Score]
    """The scores of all of its models on all test cases."""
    run: RunFiles | None
    """The run's files; None for the base model."""

    @cached_property
    def sites(self) -> list[str]:
        """The sites with test patients, sorted."""
        return sorted({score.site for score in self.scores})

    def own(self, origin: str) -> list[Score]:
        """Return the scores of a site's own model: its personal one, or else the merged one."""
        personal = [s for s in self.scores if s.model == PERSONAL and s.origin == origin]
        return personal or [s for s in self.scores if s.model in (MERGED, BASE)]

    def in_client(self) -> dict[str, list[Score]]:
        """Return the scores of each site's own model on its own patients, by site."""
        return {site: [s for s in self.own(site) if s.site == site] for site in self.sites}

    def cross_client(self) -> dict[str, list[Score]]:
        """Return the scores of each site's own model on another's patients, by pair of sites."""
        return {
            f"{origin} at {site}": [s for s in self.own(origin) if s.site == site]
            for origin in self.sites
            for site in self.sites
            if site != origin
        }

    def adapted(self) -> dict[str, list[Score]]:
        """Return the scores of each site's adapted model on its own patients, by site."""
        found = [s for s in self.scores if s.model == ADAPTED and s.origin == s.site]
        return {site: [s for s in found if s.site == site] for site in self.sites}

    def last_local(self, site: str) -> list[Score]:
        """Return the scores of the adapter that a site sent last, on its own patients."""
        return [s for s in self.scores if s.model == LAST_LOCAL and s.origin == s.site == site]

    def matrix(self) -> dict[str, list[float]]:
        """Return each model's mean Dice at every site, in the order of ``sites``.

        The models are the base or merged one, and each site's personal or else last local one.
        """
        rows: dict[str, list[float]] = {}
        for model in (BASE, MERGED, PERSONAL, LAST_LOCAL):
            for origin in sorted({s.origin for s in self.scores if s.model == model}):
                chosen = [s for s in self.scores if (s.model, s.origin) == (model, origin)]
                at = [[s for s in chosen if s.site == site] for site in self.sites]
                rows.setdefault(origin or model, [means(scores)["mean"] for scores in at])
        return rows

    def bytes_per_round(self) -> tuple[float, float]:
        """Return the bytes from and to all sites in a round; NaN for the base model."""
        if self.run is None or not self.run.rounds:
            return math.nan, math.nan
        rounds = len(self.run.rounds)
        return self.run.traffic["up"] / rounds, self.run.traffic["down"] / rounds

    def bytes_in_all(self) -> float:
        """Return the bytes of the whole run; NaN for the base model."""
        if self.run is None:
            return math.nan
        return float(self.run.traffic["up"] + self.run.traffic["down"])

    def validation(self) -> list[tuple[int, float]]:
        """Return (round, validation Dice over sites) of the merge, or else of the round's start."""
        if self.run is None:
            return []
        return self.run.mean_series("validation") or self.run.mean_series("start")


def means(scores: Sequence[Score], metric: str = "dice") -> dict[str, float]:
    """Return the mean over cases for every structure, and the mean of the cases' own means."""
    values = [getattr(score, metric) for score in scores]
    columns = {name: mean(v[i] for v in values) for i, name in enumerate(STRUCTURES)}
    return {**columns, "mean": mean(mean(v) for v in values)}


def site_means(groups: dict[str, list[Score]], metric: str = "dice") -> dict[str, float]:
    """Return the means by structure; every site or pair of sites counts once."""
    found = [means(scores, metric) for scores in groups.values() if scores]
    return {column: mean(values[column] for values in found) for column in COLUMNS}


def read_finished(folder: JobFolder) -> Finished:
    """Read the scores and files of a run that was evaluated.

    Raises
    ------
    UserError
        A file is broken.
    """
    try:
        lines = [parse_json(line) for line in folder.scores.read_text("utf-8").splitlines()]
        scores = [_score(line) for line in lines]
    except OSError as error:
        raise UserError(f"{folder.scores}: cannot read the file ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"{folder.scores}: damaged, expected a score in every line; remove it, and compare "
            "evaluates the run again"
        ) from None
    return Finished(folder.job, scores, read_run(folder.path) if folder.job.nodes else None)


def _score(line: dict[str, Any]) -> Score:
    return Score(
        **{key: str(line[key]) for key in ("model", "origin", "site", "patient", "frame")},
        dice=_values(line["dice"]),
        hd95_mm=_values(line.get("hd95_mm", {})),
    )


def _values(found: dict[str, float | None]) -> tuple[float, ...]:
    values = (found.get(structure) for structure in STRUCTURES)
    return tuple(math.nan if value is None else float(value) for value in values)
