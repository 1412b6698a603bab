"""``rate-my-lora report``: writes runs as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from common.console import console
from common.errors import UserError
from common.files import write_text
from common.progress import progress
from results.report.find_patients import find_inputs, patients_of
from results.report.page import RunReport, build_page
from results.report.site_scores import disagreement
from results.run_reader import RunFiles, read_run, without_paths


def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; the page compares several.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Page to write.", show_default="report.html in the first"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the sites' cases.", show_default="the run's, if there"),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(help="File of the base model.", show_default="the run's, if there"),
    ] = None,
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Leave out what needs images, and names of folders.")
    ] = False,
) -> None:
    """Write runs, finished or not, as one HTML page that needs no other file."""
    if no_data and (data or base):
        raise UserError("--no-data: found together with --data or --base, expected one of the two")
    reports = [
        RunReport(without_paths(run), missing="asked for with --no-data")
        if no_data
        else _with_patients(run, data, base)
        for run in map(read_run, runs)
    ]
    page = out or runs[0] / "report.html"
    write_text(page, build_page(reports))
    console.print(f"report: {page}")


def _with_patients(run: RunFiles, data: Path | None, base: Path | None) -> RunReport:
    """Return a run with scores of single patients, or, with a line that says so, without them."""
    inputs = find_inputs(run, data, base)
    if isinstance(inputs, str):
        if data is not None:
            raise UserError(f"{run.path}: no scores of single patients, as {inputs}")
        console.print(f"{run.path}: without single patients, as {inputs}")
        return RunReport(run, missing=inputs)
    with progress(console) as advance:
        patients = patients_of(run, inputs, advance)
    if (other := disagreement(run, patients)) and data is None:  # another folder of that name
        console.print(f"{run.path}: {other}")
        return RunReport(run, missing=f"{inputs.data} was found, but is not used: {other}")
    return RunReport(run, patients)
