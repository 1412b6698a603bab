"""Scores and pictures of single patients, and their form in ``patients.json``."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.files import finite, parse_json
from common.labels import STRUCTURES
from results.run_reader import mean


@dataclass(frozen=True)
class Measured:
    """Scores of one prediction for LV, MYO and RV; NaN where the true labels lack a structure."""

    dice: tuple[float, ...]
    hd95_mm: tuple[float, ...]

    def value(self, metric: str, column: str) -> float:
        """Return a structure's score, or for ``mean`` the mean over those that are not NaN."""
        values: tuple[float, ...] = getattr(self, metric)
        return mean(values) if column == "mean" else values[STRUCTURES.index(column)]


@dataclass(frozen=True)
class CaseScores:
    """Scores of one test case under the base model and under the run's result."""

    site: str
    patient: str
    frame: str
    base: Measured
    result: Measured


@dataclass(frozen=True)
class Picture:
    """A picture of one case: coloured outlines of the prediction over white ones of the truth."""

    site: str
    patient: str
    frame: str
    png: str
    """PNG in base64."""


@dataclass(frozen=True)
class Transfer:
    """Mean Dice of the sites' own adapters, in-client and cross-client."""

    server_round: int
    """The round of the adapters in ``own``."""
    own: Mapping[str, Mapping[str, float]]
    """Dice on test patients, by the adapter's site and then by the patients' site."""
    rounds: Sequence[tuple[int, float, float]]
    """(round, in-client, cross-client) Dice on validation patients, mean over all adapters."""


@dataclass(frozen=True)
class Patients:
    """All that the images add to the report."""

    cases: Sequence[CaseScores]
    """The test cases of all sites."""
    splits: Mapping[str, Mapping[str, int]]
    """Number of patients by site and split."""
    pictures: Sequence[Picture]
    """Pictures of the worst cases, the worst first."""
    transfer: Transfer | None = None
    """None where the run kept no adapters of single sites."""

    def of(self, site: str) -> list[CaseScores]:
        """Return a site's cases."""
        return [case for case in self.cases if case.site == site]

    def score(self, site: str, model: str, metric: str, column: str) -> float:
        """Return the mean over a site's cases, which is what the site itself reports."""
        return mean(getattr(case, model).value(metric, column) for case in self.of(site))

    def pairs(self, site: str, metric: str, column: str) -> list[tuple[str, float, float]]:
        """Return (patient, base, result) of a site's patients, each the mean over the frames."""
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
        plain: dict[str, Any] = finite(parse_json(json.dumps(asdict(self))))  # tuples to lists
        return plain

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Patients":
        """Read what :meth:`to_json` returned; anything else raises KeyError or TypeError."""
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
    """Return at most ``most`` cases of lowest Dice, at most ``per_site`` of a site, worst first."""
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
