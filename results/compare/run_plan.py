"""Brings all runs of a comparison to their end, and goes on where an earlier attempt stopped."""

from pathlib import Path

from filelock import FileLock, Timeout
from rich.console import Console

from client_app import demo
from common.errors import UserError
from results.compare.folder import JobFolder
from results.compare.plan import BASE, Job, Plan
from results.compare.running import JobRunner, Share, check_app
from results.compare.showing import showing


def run_plan(plan: Plan, out: Path, jobs: int, only: str, console: Console) -> list[JobFolder]:
    """Run and evaluate what is not done yet, and return the folders of all runs.

    ``jobs`` runs go on at a time. Runs whose name lacks the text ``only`` are left alone, but the
    base models are always evaluated.

    Raises
    ------
    UserError
        No run's name contains ``only``, another comparison is at work in ``out``, or runs in
        it were made with other keys.
    """
    check_app()
    if not any(only in job.name for job in plan.jobs()):
        raise UserError(
            f"--only: found {only!r}, expected a part of a name such as 'fedit, seed 0'"
        )
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            folders = [JobFolder(job, out) for job in provided(plan)]
            for folder in folders:
                folder.check_keys()
            wanted = [f for f in folders if f.job.row == BASE or only in f.job.name]
            left = [f for f in wanted if not f.evaluated(plan.adapt_epochs)]
            gpu = any(f.job.config.train.torch_device().type == "cuda" for f in left)
            with showing(console, len(folders), left, jobs) as shown:
                JobRunner(jobs, plan.adapt_epochs, Share.of(jobs, gpu=gpu), shown).work(left)
    except Timeout:
        raise UserError(
            f"{out}: another compare is at work there, expected one at a time"
        ) from None
    return folders


def provided(plan: Plan) -> list[Job]:
    """Return all runs with data and base model; where the keys name none, the demo's are made.

    One base is made for a setting, with its first seed, so that all runs of it share the base.
    """
    found: list[Job] = []
    for setting in plan.settings:
        jobs = [job for job in plan.jobs() if job.setting == setting]
        first = jobs[0].config
        inputs: dict[str, Path] = {}
        if any(not (job.config.data.data_dir and job.config.base_model) for job in jobs):
            made = demo.provide(first, need_base=not first.base_model)
            inputs = {"data_dir": made.data_dir, "base_model": made.base_model}
        found += [job.given(**inputs) for job in jobs]
    return found
