"""Scores and pictures of single patients, where the images were at hand."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.files import finite
from common.labels import STRUCTURES
from results.run_reader import mean


@dataclass(frozen=True)
class Measured:
    """Scores of one prediction by structure (LV, MYO, RV); NaN where the truth has none."""

    dice: tuple[float, ...]
    hd95_mm: tuple[float, ...]

    def value(self, metric: str, column: str) -> float:
        """Return the score of a structure, or the mean over those that are there."""
        values: tuple[float, ...] = getattr(self, metric)
        if column != "mean":
            return values[STRUCTURES.index(column)]
        return mean(values)


@dataclass(frozen=True)
class CaseScores:
    """A test case under the base model and under the run's result."""

    site: str
    patient: str
    frame: str
    base: Measured
    result: Measured


@dataclass(frozen=True)
class Picture:
    """A case drawn: PNG in base64; outlines of the prediction in colour over those of the truth."""

    site: str
    patient: str
    frame: str
    png: str


@dataclass(frozen=True)
class Transfer:
    """How adapters do at home and away, in mean Dice.

    Attributes
    ----------
    server_round
        Of the sites' own adapters in ``own``.
    own
        By site whose adapter it is, then by site whose test patients it was scored on.
    rounds
        (round, in-client, cross-client) on validation patients: the mean of the sites' own
        adapters on their own patients, and on those of the other sites.
    """

    server_round: int
    own: Mapping[str, Mapping[str, float]]
    rounds: Sequence[tuple[int, float, float]]


@dataclass(frozen=True)
class Patients:
    """All that the images add to the report.

    Attributes
    ----------
    cases
        Test cases of all sites.
    splits
        Number of patients by site and split.
    pictures
        Of the worst cases, worst first.
    transfer
        None where the run kept no adapters of single sites.
    """

    cases: Sequence[CaseScores]
    splits: Mapping[str, Mapping[str, int]]
    pictures: Sequence[Picture]
    transfer: Transfer | None = None

    def of(self, site: str) -> list[CaseScores]:
        """Return a site's cases."""
        return [case for case in self.cases if case.site == site]

    def score(self, site: str, model: str, metric: str, column: str) -> float:
        """Return the mean over a site's cases, as the site itself reports it."""
        return mean(getattr(case, model).value(metric, column) for case in self.of(site))

    def pairs(self, site: str, metric: str, column: str) -> list[tuple[str, float, float]]:
        """Return (patient, base, result) for a site: each patient's mean over the frames."""
        by_patient: dict[str, list[CaseScores]] = {}
        for case in self.of(site):
            by_patient.setdefault(case.patient, []).append(case)
        pairs = [
            (
                patient,
                mean(case.base.value(metric, column) for case in cases),
                mean(case.result.value(metric, column) for case in cases),
            )
            for patient, cases in sorted(by_patient.items())
        ]
        return [pair for pair in pairs if not math.isnan(pair[1] + pair[2])]

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads."""
        plain: dict[str, Any] = finite(_lists(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Patients":
        """Read what :meth:`to_json` wrote; anything else raises KeyError or TypeError."""
        transfer = content["transfer"]
        return cls(
            [
                CaseScores(**{**case, "base": _measured(case["base"]),
                              "result": _measured(case["result"])})
                for case in content["cases"]
            ],
            content["splits"],
            [Picture(**picture) for picture in content["pictures"]],
            transfer and Transfer(
                transfer["server_round"],
                transfer["own"],
                [(t, _number(inside), _number(across)) for t, inside, across in transfer["rounds"]],
            ),
        )  # fmt: skip


def worst(cases: Sequence[CaseScores], per_site: int, most: int) -> list[CaseScores]:
    """Return the cases of lowest Dice, so many of each site and at most ``most``, worst first."""
    ordered = sorted(
        (case for case in cases if not math.isnan(case.result.value("dice", "mean"))),
        key=lambda case: case.result.value("dice", "mean"),
    )
    taken: dict[str, int] = {}
    chosen = []
    for case in ordered:
        taken[case.site] = taken.get(case.site, 0) + 1
        if taken[case.site] <= per_site:
            chosen.append(case)
    return chosen[:most]


def _measured(content: Mapping[str, Any]) -> Measured:
    return Measured(tuple(map(_number, content["dice"])), tuple(map(_number, content["hd95_mm"])))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _lists(value: Any) -> Any:
    """Turn tuples into the lists that JSON has, so that ``finite`` looks into them."""
    if isinstance(value, dict):
        return {key: _lists(item) for key, item in value.items()}
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
