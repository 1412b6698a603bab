"""``rate-my-lora compare``: methods × seeds × settings, run, evaluated and put side by side."""

from pathlib import Path
from typing import Annotated

import typer
from filelock import FileLock, Timeout

from client_app import demo
from common.console import console
from common.errors import UserError
from common.writable import check_folder
from results.compare.folder import JobFolder
from results.compare.plan import BASE, Job, Plan, read_plan
from results.compare.report import write_report
from results.compare.running import Runner, Share, check_app
from results.compare.showing import showing

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
        folders = [JobFolder.of(job, out) for job in plan.jobs()]
    else:
        folders = _work(plan, out, jobs, only)
    if write_report(plan, folders, out, console):
        raise typer.Exit(1)


def _work(plan: Plan, out: Path, jobs: int, only: str) -> list[JobFolder]:
    """Bring the runs to their end."""
    check_app()
    if not any(only in job.name for job in plan.jobs()):
        raise UserError(
            f"--only: found {only!r}, expected a part of a name such as 'fedit, seed 0'"
        )
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            folders = [JobFolder.of(job, out) for job in provided(plan)]
            for folder in folders:
                folder.check_keys()
            left = [f for f in folders if not f.evaluated(plan.adapt_epochs) and _wanted(f, only)]
            gpu = any(f.job.config.train.torch_device().type == "cuda" for f in left)
            with showing(console, len(folders), left, jobs) as shown:
                Runner(jobs, plan.adapt_epochs, Share.of(jobs, gpu=gpu), shown).work(left)
    except Timeout:
        raise UserError(
            f"{out}: another compare is at work there, expected one at a time"
        ) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        raise typer.Exit(STOPPED) from None
    return folders


def _wanted(folder: JobFolder, only: str) -> bool:
    return folder.job.row == BASE or only in folder.job.name


def provided(plan: Plan) -> list[Job]:
    """Return all runs with their data and base model; a phantom and its base where none are named.

    The base is made once a setting, of its first seed, so that all runs of it have the same.
    """
    found: list[Job] = []
    for setting in plan.settings:
        jobs = [job for job in plan.jobs() if job.setting == setting]
        first = jobs[0].config
        inputs: dict[str, Path] = {}
        if any(_incomplete(job) for job in jobs):
            made = demo.provide(first, need_base=not first.base_model)
            inputs = {"data_dir": made.data_dir, "base_model": made.base_model}
        found += [job.given(**inputs) for job in jobs]
    return found


def _incomplete(job: Job) -> bool:
    return not (job.config.data.data_dir and job.config.base_model)
