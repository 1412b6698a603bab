"""What is kept of a run of the comparison, and how far it got."""

import json
from dataclasses import dataclass
from pathlib import Path

import tomli_w

from common.config import RunConfig
from common.errors import UserError
from common.files import write_text
from common.model import file_sha256
from common.options import Value, read_toml
from results.compare.plan import BASE, Job
from server_app.run_dir import RunDir
from server_app.status import FINISHED, Status, read_status


@dataclass(frozen=True)
class JobFolder:
    """The folder of one run: what ``server_app.run_dir.RunDir`` lists, and some files beside.

    Attributes
    ----------
    job
        The run.
    path
        The folder.
    """

    job: Job
    path: Path

    @classmethod
    def of(cls, job: Job, out: Path) -> "JobFolder":
        """Return the folder of a run below the comparison's."""
        names = [file_name(name) for name in (job.setting, job.row) if name]
        return cls(job, out.joinpath("runs", *names, f"seed-{job.seed}"))

    @property
    def run(self) -> RunDir:
        """The run's own files."""
        return RunDir(self.path)

    @property
    def keys(self) -> Path:
        """The keys that the run was started with."""
        return self.path / "run.toml"

    @property
    def log(self) -> Path:
        """All that the run's processes said."""
        return self.path / "run.log"

    @property
    def scores(self) -> Path:
        """A line for every model and case."""
        return self.path / "scores.jsonl"

    @property
    def evaluation(self) -> Path:
        """What was evaluated; written last, so its being there says that all is done."""
        return self.path / "evaluation.json"

    @property
    def failure(self) -> Path:
        """Which step failed and why."""
        return self.path / "failure.json"

    @property
    def lock(self) -> Path:
        """Held as long as a process of the run is there."""
        return self.path / ".lock"

    def status(self) -> Status | None:
        """Return where the run stands; None before it has begun, or when nothing can be read."""
        try:
            return read_status(self.run.status)
        except UserError:
            return None

    def trained(self) -> bool:
        """Say whether the run has ended well; the base model needs none."""
        if self.job.row == BASE:
            return True
        status = self.status()
        return status is not None and status.state == FINISHED and self.run.summary.is_file()

    def evaluated(self, adapt_epochs: int) -> bool:
        """Say whether all is done, with adaptation for so many epochs."""
        if not (self.evaluation.is_file() and self.scores.is_file() and self.trained()):
            return False
        return _read(self.evaluation).get("adapt_epochs") == adapt_epochs

    def standing(self) -> str:
        """Say in a few words why the run is missing in the results."""
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
        """Check that what is here was made with the keys of now, a profile's and base's included.

        Raises
        ------
        UserError
            A key that changes results is another one.
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
        """Write the keys for an attempt; it goes on where there is a checkpoint."""
        self.path.mkdir(parents=True, exist_ok=True)
        typed: dict[str, Value] = dict(self.job.keys)
        if self.job.row == BASE:  # nothing runs that would write it
            write_text(self.run.config, tomli_w.dumps(self.job.config.to_flat()))
        else:
            typed["run-dir"] = str(self.path.resolve())
            typed["resume"] = self.run.checkpoint.is_file() and self.keys.is_file()
        for path in (self.failure, self.evaluation, self.scores):
            path.unlink(missing_ok=True)
        write_text(self.keys, tomli_w.dumps(typed))

    def fail(self, step: str, reason: str) -> None:
        """Note that a step failed."""
        write_text(self.failure, json.dumps({"step": step, "reason": reason}) + "\n")


def file_name(name: str) -> str:
    """Return a row's or setting's name as that of a file."""
    return name.replace("%", "%25").replace("/", "%2F")


def _read(path: Path) -> dict[str, object]:
    """Return a small JSON object, an empty one where the file is none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
