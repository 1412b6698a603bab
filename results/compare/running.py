"""Runs and evaluations as processes, one after another or side by side."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError
from results.compare.folder import JobFolder
from results.compare.plan import BASE
from results.compare.showing import Showing
from server_app.status import FAILED

ROOT = Path(__file__).resolve().parents[2]
"""The repository: what Flower is given as the app."""
POLL_S = 0.5
LONGEST_REASON = 300
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

Step = Literal["run", "evaluation"]


def check_app() -> None:
    """Check that the app's source is here.

    Raises
    ------
    UserError
        The package is installed without it.
    """
    if not (ROOT / "pyproject.toml").is_file():
        raise UserError(
            f"{ROOT}: found no pyproject.toml, expected the repository; compare runs Flower on the "
            "source, so install it from there with pip install --editable"
        )


@dataclass(frozen=True)
class Share:
    """What one of several runs at a time may use.

    Attributes
    ----------
    cores
        CPU cores.
    gpu
        Whether a run computes on a GPU, which all its sites share.
    """

    cores: int
    gpu: bool = False

    @classmethod
    def of(cls, jobs: int, *, gpu: bool) -> "Share":
        """Divide this process's cores."""
        return cls(max(1, len(os.sched_getaffinity(0)) // jobs), gpu)

    def backend(self, nodes: int) -> str:
        """Return Flower's ``--backend-config``: all nodes at once where there are enough cores."""
        client: dict[str, float] = {"num_cpus": max(1, self.cores // nodes)}
        if self.gpu:
            client["num_gpus"] = int(1e3 / nodes) / 1e3
        init = {"num_cpus": self.cores}
        return json.dumps({"client_resources": client, "init_args": init})


@dataclass
class Active:
    """A run at work."""

    folder: JobFolder
    step: Step
    process: "subprocess.Popen[bytes]"
    started: float


class Runner:
    """Brings runs to their end.

    Parameters
    ----------
    jobs
        How many at a time.
    adapt_epochs
        Of the evaluation.
    share
        Of each of them.
    showing
        Told of everything.
    """

    def __init__(self, jobs: int, adapt_epochs: int, share: Share, showing: Showing) -> None:
        self.jobs, self.adapt_epochs, self.share, self.showing = jobs, adapt_epochs, share, showing
        self.active: list[Active] = []

    def work(self, folders: Sequence[JobFolder]) -> None:
        """Run and evaluate what is not done; a failure is noted, and the others go on.

        Whatever ends this, no process is left behind.
        """
        waiting = deque(folders)
        try:
            while waiting or self.active:
                while waiting and len(self.active) < self.jobs:
                    self._begin(waiting.popleft())
                for active in list(self.active):
                    self._look(active)
                time.sleep(POLL_S)
        finally:
            for active in self.active:
                stop(active.process)

    def _begin(self, folder: JobFolder) -> None:
        folder.prepare()
        self.showing.began(folder)
        step: Step = "evaluation" if folder.trained() else "run"
        self.active.append(Active(folder, step, self._start(folder, step), time.monotonic()))

    def _look(self, active: Active) -> None:
        folder = active.folder
        code = active.process.poll()
        if code is None:
            self.showing.at(folder, active.step)
            return
        stop(active.process)  # what it may have left in its group
        ended = folder.trained() if active.step == "run" else code == 0
        if ended and active.step == "run":
            active.step = "evaluation"
            active.process = self._start(folder, active.step)
            return
        if not ended:
            folder.fail(active.step, reason(folder, active.step) or f"status {code}")
        self.active.remove(active)
        self.showing.ended(folder, time.monotonic() - active.started)

    def _start(self, folder: JobFolder, step: Step) -> "subprocess.Popen[bytes]":
        python = [sys.executable, "-P", "-m"]  # -P: what lies in the user's folder is not ours
        command = self._simulation(folder) if step == "run" else self._evaluation(folder, python)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if step == "evaluation":  # Ray sees to it for the sites
            environment.setdefault("OMP_NUM_THREADS", str(self.share.cores))
        with folder.log.open("ab") as log:
            return subprocess.Popen(  # noqa: S603
                [*python, "results.compare.leash", str(folder.lock), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _simulation(self, folder: JobFolder) -> list[str]:
        nodes = folder.job.nodes
        simulate = Path(sys.executable).with_name("flower-simulation")
        return [
            *(str(simulate), "--app", str(ROOT), "--num-supernodes", str(nodes)),
            *("--run-config", str(folder.keys.resolve())),
            *("--backend-config", self.share.backend(nodes)),
        ]

    def _evaluation(self, folder: JobFolder, python: list[str]) -> list[str]:
        numbers = (str(folder.job.hospitals), str(self.adapt_epochs))
        base = ["--base"] if folder.job.row == BASE else []
        return [*python, "results.compare.evaluation", str(folder.path), *numbers, *base]


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes its pipe and waits
        pass


def reason(folder: JobFolder, step: Step) -> str:
    """Return why a step failed: the run's own word, or else the last line of the log."""
    status = folder.status()
    if step == "run" and status is not None and status.state == FAILED:
        return _plain(status.error)
    return last_line(folder.log)


def last_line(log: Path) -> str:
    """Return the last line that says something."""
    try:
        lines = log.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        if plain := _plain(line):
            return plain
    return ""


def _plain(text: str) -> str:
    return "".join(c for c in _ANSI.sub("", text) if c.isprintable()).strip()[:LONGEST_REASON]
