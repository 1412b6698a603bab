"""The numbers of a comparison's rows over their seeds: for all sites, and site by site."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import wilcoxon

from common.text import number
from results.compare.folder import JobFolder
from results.compare.plan import BASE, Plan
from results.compare.run_scores import Finished, means, read_finished, site_means
from results.run_reader import COLUMNS, mean

LEAST_FOR_TEST = 6
"""The fewest pairs with which the signed-rank test can reach p < 0.05."""


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation (n − 1) over seeds; the latter is NaN for a single seed."""

    mean: float
    sd: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return mean and deviation of the ``values`` that are not NaN."""
        known = [value for value in values if not math.isnan(value)]
        return cls(mean(known), float(np.std(known, ddof=1)) if len(known) > 1 else math.nan)

    def text(self, digits: int = 3) -> str:
        """Return ``0.812 ± 0.010``, without the deviation of a single seed."""
        found = number(self.mean, digits)
        return found if math.isnan(self.sd) else f"{found} ± {number(self.sd, digits)}"


@dataclass(frozen=True)
class RowResult:
    """The runs of one row in one setting, by seed."""

    setting: str
    row: str
    finished: Mapping[int, Finished]
    """The runs that are done."""
    missing: Mapping[int, str]
    """Why each other run is not done."""

    @property
    def seeds(self) -> str:
        """How many seeds there are, and which are missing, in words."""
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
        """HD95 (mm) of the sites' own models on their own patients."""
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
        """Payload (bytes) from all sites in a round, mean over seeds."""
        return mean(f.bytes_per_round()[0] for f in self.finished.values())

    @cached_property
    def down(self) -> float:
        """Payload (bytes) to all sites in a round, mean over seeds."""
        return mean(f.bytes_per_round()[1] for f in self.finished.values())

    @cached_property
    def in_all(self) -> float:
        """Payload (bytes) of a whole run, mean over seeds."""
        return mean(f.bytes_in_all() for f in self.finished.values())


@dataclass(frozen=True)
class SignedRank:
    """The result of a Wilcoxon signed-rank test over patients."""

    p: float
    """The two-sided p value; NaN with fewer than ``LEAST_FOR_TEST`` patients."""
    patients: int
    """How many patients were paired."""


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
    if not any(differences):  # nothing to rank
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


@dataclass(frozen=True)
class SiteResult:
    """The results of one site in a row, over seeds."""

    dice: Mapping[str, Spread]
    """Dice of the site's own model on its own test patients, by structure."""
    last_local: Spread
    """Mean Dice, on the same patients, of the adapter that the site sent last, before any merge."""
    penalised: float
    """Fraction of rounds in which its penalty was below 1, mean over seeds; NaN without rating."""
    removed: float
    """Fraction of its share that the re-merge took, mean over the rounds that penalised it."""


def site_results(row: RowResult) -> dict[str, SiteResult]:
    """Return the results of every site, by name."""
    sites = sorted({site for finished in row.finished.values() for site in finished.sites})
    return {site: _site_result(row, site) for site in sites}


def _site_result(row: RowResult, site: str) -> SiteResult:
    runs = row.finished.values()
    own = [means(finished.in_client().get(site, [])) for finished in runs]
    last = [means(finished.last_local(site))["mean"] for finished in runs]
    rates, removed = [], []
    for finished in runs:
        trainings = [] if finished.run is None else finished.run.trainings(site)
        damped = [entry for entry in trainings if entry["penalty"] < 1]
        rated = trainings and finished.job.config.method.rating != "none"
        rates.append(len(damped) / len(trainings) if rated else math.nan)
        removed += [entry["removed"] for entry in damped if "removed" in entry]
    dice = {column: Spread.of([found[column] for found in own]) for column in COLUMNS}
    return SiteResult(dice, Spread.of(last), mean(rates), mean(removed))


def collect(plan: Plan, folders: Sequence[JobFolder]) -> list[RowResult]:
    """Return the results of every row of every setting, the base model first.

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
