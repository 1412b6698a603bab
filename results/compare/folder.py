"""The folder of one run of a comparison: its files, and how far the run got."""

import json
from pathlib import Path

import tomli_w

from common.config import RunConfig
from common.errors import UserError
from common.files import parse_json, write_text
from common.model import file_sha256
from common.options import Value, read_toml
from results.compare.plan import BASE, Job
from server_app.run_dir import RunDir
from server_app.status import FINISHED, Status, read_status


class JobFolder:
    """The folder of one run, below the comparison's.

    It holds the files of :class:`server_app.run_dir.RunDir` (``run``) and these beside them:

    =============== ====================================================================
    run.toml        ``keys``: the keys that the run was started with
    run.log         ``log``: all output of the run's processes
    scores.jsonl    ``scores``: a line for every model and case
    evaluation.json ``evaluation``: what was evaluated; it is written last, when all is done
    failure.json    ``failure``: which step failed and why
    .lock           ``lock``: held as long as a process of the run lives
    =============== ====================================================================

    Parameters
    ----------
    job
        The run.
    out
        The folder of the comparison.
    """

    def __init__(self, job: Job, out: Path) -> None:
        names = [file_name(name) for name in (job.setting, job.row) if name]
        self.job = job
        self.path = path = out.joinpath("runs", *names, f"seed-{job.seed}")
        self.run = RunDir(path)
        self.keys, self.log = path / "run.toml", path / "run.log"
        self.scores, self.evaluation = path / "scores.jsonl", path / "evaluation.json"
        self.failure, self.lock = path / "failure.json", path / ".lock"

    def status(self) -> Status | None:
        """Return where the run stands; None before it has begun, or where that cannot be read."""
        try:
            return read_status(self.run.status)
        except UserError:
            return None

    def trained(self) -> bool:
        """Return whether the run has finished; the base model needs no run."""
        if self.job.row == BASE:
            return True
        status = self.status()
        return status is not None and status.state == FINISHED and self.run.summary.is_file()

    def evaluated(self, adapt_epochs: int) -> bool:
        """Return whether the run was evaluated, with adaptation for ``adapt_epochs`` epochs."""
        if not (self.evaluation.is_file() and self.scores.is_file() and self.trained()):
            return False
        return _read(self.evaluation).get("adapt_epochs") == adapt_epochs

    def standing(self) -> str:
        """Return in a few words why the run is missing from the results."""
        if self.failure.is_file():
            found = _read(self.failure)
            return f"{found.get('step', 'it')} failed: {found.get('reason', 'unknown')}"
        if not self.keys.is_file():
            return "not begun"
        if self.trained():
            return "not evaluated yet"
        status = self.status()
        return f"stopped in round {status.round} of {status.rounds}" if status else "not begun"

    def check_keys(self) -> None:
        """Check that a run which is already here was made with today's keys and base file.

        Raises
        ------
        UserError
            A key that changes the results has another value now.
        """
        if not self.run.config.is_file():
            return
        before, now = read_toml(self.run.config), self.job.config.to_flat()
        base = self.job.config.path(self.job.config.base_model)
        if before.get("base-sha256") and base.is_file():
            now["base-sha256"] = file_sha256(base)
        for key in sorted(RunConfig.keys_that_affect("result", "length", "input")):
            if key in before and before[key] != now[key]:
                raise UserError(
                    f"{self.path}: made with {key} = {before[key]!r}, found {now[key]!r} "
                    "now; take another --out, or remove that folder"
                )

    def prepare(self) -> None:
        """Write the keys for an attempt, which goes on from a checkpoint where there is one."""
        self.path.mkdir(parents=True, exist_ok=True)
        typed: dict[str, Value] = dict(self.job.keys)
        if self.job.row == BASE:  # no run writes it
            write_text(self.run.config, tomli_w.dumps(self.job.config.to_flat()))
        else:
            typed["run-dir"] = str(self.path.resolve())
            typed["resume"] = self.run.checkpoint.is_file() and self.keys.is_file()
        for path in (self.failure, self.evaluation, self.scores):
            path.unlink(missing_ok=True)
        write_text(self.keys, tomli_w.dumps(typed))

    def fail(self, step: str, reason: str) -> None:
        """Write down that a step failed, and why."""
        write_text(self.failure, json.dumps({"step": step, "reason": reason}) + "\n")


def file_name(name: str) -> str:
    """Return the name of a row or setting as a file name."""
    return name.replace("%", "%25").replace("/", "%2F")


def _read(path: Path) -> dict[str, object]:
    """Return a file's JSON object; an empty one where the file holds none."""
    try:
        found = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
