"""Starts runs and evaluations as processes, one after another or side by side."""

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
from common.flower_environment import SCRIPTS
from results.compare.folder import JobFolder
from results.compare.plan import BASE
from results.compare.showing import Showing
from server_app.status import FAILED

ROOT = Path(__file__).resolve().parents[2]
"""The repository, which is the app that Flower runs."""
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
    """The part of the machine that each of several runs at a time may use."""

    cores: int
    """CPU cores."""
    gpu: bool = False
    """Whether the run computes on a GPU, which all of its sites share."""

    @classmethod
    def of(cls, jobs: int, *, gpu: bool) -> "Share":
        """Divide this process's cores among ``jobs`` runs."""
        return cls(max(1, len(os.sched_getaffinity(0)) // jobs), gpu)

    def backend(self, nodes: int) -> str:
        """Return Flower's ``--backend-config``, with all nodes at once where the cores suffice."""
        client: dict[str, float] = {"num_cpus": max(1, self.cores // nodes)}
        if self.gpu:
            client["num_gpus"] = int(1e3 / nodes) / 1e3
        init = {"num_cpus": self.cores}
        return json.dumps({"client_resources": client, "init_args": init})


@dataclass
class Active:
    """A run that is at work."""

    folder: JobFolder
    step: Step
    process: "subprocess.Popen[bytes]"
    started: float


class JobRunner:
    """Brings runs to their end, ``jobs`` at a time, each with a ``share`` of the machine."""

    def __init__(self, jobs: int, adapt_epochs: int, share: Share, showing: Showing) -> None:
        self.jobs, self.adapt_epochs, self.share, self.showing = jobs, adapt_epochs, share, showing
        self.active: list[Active] = []

    def work(self, folders: Sequence[JobFolder]) -> None:
        """Run and evaluate the folders' runs; one that fails does not stop the others.

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
        stop(active.process)  # its group may still have processes
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
        python = [sys.executable, "-P", "-m"]  # -P: import nothing from the user's folder
        command = self._simulation(folder) if step == "run" else self._evaluation(folder, python)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        if step == "evaluation":  # in a run Ray sets it for the sites
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
        return [
            str(SCRIPTS / "flower-simulation"),
            *("--app", str(ROOT), "--num-supernodes", str(nodes)),
            *("--run-config", str(folder.keys.resolve())),
            *("--backend-config", self.share.backend(nodes)),
        ]

    def _evaluation(self, folder: JobFolder, python: list[str]) -> list[str]:
        numbers = (str(folder.job.hospitals), str(self.adapt_epochs))
        base = ["--base"] if folder.job.row == BASE else []
        return [*python, "results.compare.evaluate_run", str(folder.path), *numbers, *base]


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process and all of its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:  # closes its pipe and waits
        pass


def reason(folder: JobFolder, step: Step) -> str:
    """Return why a step failed: the error in the run's status, or else the log's last line."""
    status = folder.status()
    if step == "run" and status is not None and status.state == FAILED:
        return _plain(status.error)
    return last_line(folder.log)


def last_line(log: Path) -> str:
    """Return the log's last line that is not empty."""
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
