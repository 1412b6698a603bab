"""Builds the report's HTML page from its template."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.text import number
from results.report import figures, overview, rounds, runs_side_by_side, site_scores
from results.report.page_tables import Palette
from results.report.patients import CaseScores, Patients
from results.report.signatures import find, unchecked
from results.run_reader import RunFiles


@dataclass(frozen=True)
class RunReport:
    """What the page shows of one run."""

    run: RunFiles
    patients: Patients | None = None
    """Scores and pictures of single patients; None where the images are not at hand."""
    missing: str = "the images are not here"
    """Why the images are not at hand."""


def build_page(reports: Sequence[RunReport]) -> str:
    """Return one HTML page for all runs, which needs no other file and no network."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # site names and reasons come from other machines
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = runs_side_by_side.run_names([report.run for report in reports])
    runs = dict(zip(names, (report.run for report in reports), strict=True))
    several = len(runs) > 1
    return environment.get_template("page.html").render(
        title=" · ".join(names),
        several=several,
        palette=Palette(names),
        comparison=_comparison(runs) if several else None,
        runs=[
            _view(f"run-{place}", name, report)
            for place, (name, report) in enumerate(zip(names, reports, strict=True), 1)
        ],
        has_patients=any(report.patients for report in reports),
    )


def _comparison(runs: dict[str, RunFiles]) -> dict[str, Any]:
    return {
        "tables": [runs_side_by_side.differing_keys(runs), runs_side_by_side.scores_table(runs)],
        "curves": runs_side_by_side.curves(runs),
    }


def _view(anchor: str, name: str, report: RunReport) -> dict[str, Any]:
    """Return the template's values for one run."""
    run, patients = report.run, report.patients
    palette = Palette(run.sites)
    trained = bool(run.rounds)
    drawings = (figures.penalties, figures.losses) if trained else ()
    return {
        "anchor": anchor,
        "name": name,
        "state": overview.state(run),
        "outcome": overview.outcome(run, patients),
        "facts": overview.facts(run),
        "sites": overview.sites_table(run, palette, patients),
        "findings": find(run, patients),
        "unchecked": unchecked(run, patients),
        "score_note": site_scores.what_is_known(patients, report.missing),
        "score_warning": site_scores.disagreement(run, patients) if patients else "",
        "score_tables": site_scores.tables(run, palette, patients),
        "score_figures": site_scores.figures(run, palette, patients, anchor),
        "validation": figures.validation(run, palette, f"{anchor} validation over the rounds")
        if run.history
        else None,
        "round_figures": [
            *(paint(run, palette, f"{anchor} {paint.__name__}") for paint in drawings),
            *([figures.traffic(run, f"{anchor} traffic")] if trained else []),
        ],
        "rounds": rounds.rounds_table(run),
        "refusals": rounds.refusals_table(run),
        "traffic": rounds.traffic_table(run, palette),
        "traffic_sentence": rounds.traffic_sentence(run),
        "matrix": site_scores.matrix(run, patients, palette) if patients else None,
        "in_and_cross": _in_and_cross(patients, anchor),
        "pictures": _pictures(patients) if patients else [],
        "config": overview.config_table(run),
        "commands": overview.commands(run),
        "base": run.config.base_sha256 or "not recorded",
        "versions": overview.versions(run),
    }


def _in_and_cross(patients: Patients | None, anchor: str) -> Any:
    if patients is None or patients.transfer is None or len(patients.transfer.rounds) < 2:
        return None
    name = f"{anchor} in-client and cross-client Dice"
    return figures.in_and_cross(patients.transfer.rounds, name)


def _pictures(patients: Patients) -> list[dict[str, str]]:
    cases = {(case.site, case.patient, case.frame): case for case in patients.cases}
    return [
        {
            "png": picture.png,
            "title": f"{picture.site}, patient {picture.patient} {picture.frame}",
            "dice": _dice(cases[picture.site, picture.patient, picture.frame]),
        }
        for picture in patients.pictures
    ]


def _dice(case: CaseScores) -> str:
    return ", ".join(
        f"{column} {number(case.result.value('dice', column))} "
        f"(base {number(case.base.value('dice', column))})"
        for column in ("LV", "MYO", "RV")
    )
