"""``rate-my-lora compare``: methods × seeds × settings, run, evaluated and put side by side."""

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
"""Status after Ctrl-C, as shells have it."""


def compare(
    file: Annotated[Path, typer.Argument(help="TOML file: seeds, methods, rows, settings, keys.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and the results.")],
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time; they share the cores.")] = 1,
    only: Annotated[
        str, typer.Option(help="Run only what has this text in 'SETTING, ROW, seed N'.")
    ] = "",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Run nothing; write results of what is there.")
    ] = False,
) -> None:
    """Run and evaluate methods under the same conditions; goes on where it was stopped.

    Status 1 when a run failed or is missing.
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
