"""The numbers of the table: a row of the comparison over its seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import wilcoxon

from common.text import number
from results.compare.folder import JobFolder
from results.compare.plan import BASE, Plan
from results.compare.run_scores import Finished, read_finished, site_means
from results.run_reader import COLUMNS, mean

LEAST_FOR_TEST = 6
"""Pairs from which on the signed-rank test can reach p < 0.05."""


@dataclass(frozen=True)
class Spread:
    """A number over seeds: its mean, and its standard deviation (n − 1), NaN for a single seed."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return mean and deviation of the numbers among ``values``."""
        known = [value for value in values if not math.isnan(value)]
        return cls(mean(known), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan)

    def text(self, digits: int = 3) -> str:
        """Return ``0.812 ± 0.010``, without the deviation of a single seed."""
        found = number(self.mean, digits)
        return found if math.isnan(self.sd) else f"{found} ± {number(self.sd, digits)}"


@dataclass(frozen=True)
class RowResult:
    """A row in a setting.

    Attributes
    ----------
    setting, row
        Which one.
    finished
        Its runs that are done, by seed.
    missing
        Why the others are not, by seed.
    """

    setting: str
    row: str
    finished: Mapping[int, Finished]
    missing: Mapping[int, str]

    @property
    def seeds(self) -> str:
        """Say how many seeds there are, and which are missing."""
        total = len(self.finished) + len(self.missing)
        if not self.missing:
            return str(total)
        names = ", ".join(map(str, self.missing))
        return f"{len(self.finished)} of {total} seeds (missing: {names})"

    @cached_property
    def in_client(self) -> dict[str, Spread]:
        """Dice of the sites' own models on their own patients, by structure."""
        seeds = [site_means(f.in_client()) for f in self.finished.values()]
        return {column: Spread.of([seed[column] for seed in seeds]) for column in COLUMNS}

    @cached_property
    def in_client_by_seed(self) -> dict[int, float]:
        """Mean in-client Dice by seed."""
        return {seed: site_means(f.in_client())["mean"] for seed, f in self.finished.items()}

    @cached_property
    def hd95_mm(self) -> Spread:
        """HD95 of the same pairs."""
        runs = self.finished.values()
        return Spread.of([site_means(f.in_client(), "hd95_mm")["mean"] for f in runs])

    @cached_property
    def cross_client(self) -> Spread:
        """Dice of the sites' own models on the other sites' patients."""
        return Spread.of([site_means(f.cross_client())["mean"] for f in self.finished.values()])

    @cached_property
    def adapted(self) -> Spread:
        """Dice of the sites' own models after adaptation, on their own patients."""
        return Spread.of([site_means(f.adapted())["mean"] for f in self.finished.values()])

    @cached_property
    def up(self) -> float:
        """Payload from all sites in a round, mean over seeds."""
        return mean(f.bytes_per_round()[0] for f in self.finished.values())

    @cached_property
    def down(self) -> float:
        """Payload to all sites in a round, mean over seeds."""
        return mean(f.bytes_per_round()[1] for f in self.finished.values())

    @cached_property
    def in_all(self) -> float:
        """Payload of a whole run, mean over seeds."""
        return mean(f.bytes_in_all() for f in self.finished.values())


@dataclass(frozen=True)
class SignedRank:
    """A signed-rank test over patients.

    Attributes
    ----------
    p
        Two-sided; NaN where there are too few patients.
    patients
        How many were paired.
    """

    p: float
    patients: int


def patient_test(row: RowResult, reference: RowResult) -> SignedRank:
    """Test a row's in-client Dice against the reference's.

    A pair is a patient: the mean over frames and structures, and over the seeds in which both
    rows tested the patient.
    """
    ours, theirs = _by_patient(row), _by_patient(reference)
    pairs: dict[tuple[str, str], list[float]] = {}
    for key in sorted(set(ours) & set(theirs)):
        pairs.setdefault(key[1:], []).append(ours[key] - theirs[key])
    differences = [mean(values) for values in pairs.values()]
    differences = [value for value in differences if not math.isnan(value)]
    if len(differences) < LEAST_FOR_TEST:
        return SignedRank(math.nan, len(differences))
    if not any(differences):  # all the same: nothing to rank
        return SignedRank(1.0, len(differences))
    return SignedRank(float(wilcoxon(differences).pvalue), len(differences))


def _by_patient(row: RowResult) -> dict[tuple[int, str, str], float]:
    """Return the mean in-client Dice by (seed, site, patient)."""
    cases: dict[tuple[int, str, str], list[float]] = {}
    for seed, finished in row.finished.items():
        for site, scores in finished.in_client().items():
            for score in scores:
                cases.setdefault((seed, site, score.patient), []).extend(score.dice)
    return {key: mean(values) for key, values in cases.items()}


def collect(plan: Plan, folders: Sequence[JobFolder]) -> list[RowResult]:
    """Return every row of every setting, the base model first, missing runs noted.

    Raises
    ------
    UserError
        A file of a finished run is broken.
    """
    rows = []
    for setting in plan.settings:
        for row in (BASE, *plan.rows):
            own = [f for f in folders if (f.job.setting, f.job.row) == (setting, row)]
            done = [f for f in own if f.evaluated(plan.adapt_epochs)]
            finished = {f.job.seed: read_finished(f) for f in done}
            missing = {f.job.seed: f.standing() for f in own if f not in done}
            rows.append(RowResult(setting, row, finished, missing))
    return rows
