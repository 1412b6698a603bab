"""``rate-my-lora compare``: runs methods × seeds × settings and puts the results side by side."""

from pathlib import Path
from typing import Annotated

import typer

from common.console import console
from common.writable import check_folder
from results.compare.folder import JobFolder
from results.compare.plan import read_plan
from results.compare.run_plan import run_plan
from results.compare.write_results import write_results

STOPPED = 130
"""Exit status after Ctrl-C, as in shells."""


def compare(
    file: Annotated[Path, typer.Argument(help="TOML file: seeds, methods, rows, settings, keys.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, which share the cores.")] = 1,
    only: Annotated[
        str, typer.Option(help="Only runs with this text in their name, 'SETTING, ROW, seed N'.")
    ] = "",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Only write the results of the runs so far.")
    ] = False,
) -> None:
    """Run and evaluate methods under the same conditions, or go on where this was stopped.

    Ends with status 1 if a run failed or is missing.
    """
    plan = read_plan(file)
    check_folder(out)
    if report_only:
        folders = [JobFolder(job, out) for job in plan.jobs()]
    else:
        try:
            folders = run_plan(plan, out, jobs, only, console)
        except KeyboardInterrupt:
            console.print("stopped; the same command goes on from here")
            raise typer.Exit(STOPPED) from None
    if write_results(plan, folders, out, console):
        raise typer.Exit(1)
