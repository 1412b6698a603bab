"""``status.json``: where a run stands, for whoever watches it from outside."""

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_text
from common.options import option, parse

RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes
    ----------
    state
        ``running``, ``finished``, ``failed`` or ``stopped`` (by a person).
    rounds
        How many the run is to have.
    round, phase
        What is going on: ``gather``, ``rate base``, ``train``, ``validate``, ``test``.
    started, since
        When the run and the phase began, in seconds of Unix time.
    host, pid
        The server's process. One that is gone from its own host without a last word was killed.
    error
        Why the run failed.
    """

    rounds: int = option(low=0, high=100_000)
    state: str = option(RUNNING, choices=(RUNNING, FINISHED, FAILED, STOPPED))
    round: int = option(0, low=0, high=100_000)
    phase: str = "gather"
    started: float = option(0.0, low=0, high=1e12)
    since: float = option(0.0, low=0, high=1e12)
    host: str = ""
    pid: int = option(0, low=0, high=2**31 - 1)
    error: str = ""

    def killed(self) -> bool:
        """Say whether the server's process is gone without a last word; only its host can know."""
        if self.state != RUNNING or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
            state = Path(f"/proc/{self.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except ProcessLookupError:
            return True
        except OSError:  # another user's, or no /proc
            return False
        return state == "Z"  # dead, and its parent has not looked


class StatusFile:
    """Keeps the file as the run goes on.

    Parameters
    ----------
    path
        Of ``status.json``.
    rounds
        How many the run is to have.
    """

    def __init__(self, path: Path, rounds: int) -> None:
        self.path = path
        now = time.time()
        self.status = Status(
            rounds, started=now, since=now, host=socket.gethostname(), pid=os.getpid()
        )
        self._write()

    def phase(self, server_round: int, phase: str) -> None:
        """Note that a phase begins."""
        self._update(round=server_round, phase=phase)

    def finish(self) -> None:
        """Note that the run is over and well."""
        self._update(state=FINISHED, phase="")

    def stop(self) -> None:
        """Note that somebody stopped the run."""
        self._update(state=STOPPED)

    def fail(self, error: BaseException) -> None:
        """Note that the run is over and why."""
        self._update(state=FAILED, error=str(error) or type(error).__name__)

    def _update(self, **changes: Any) -> None:
        self.status = replace(self.status, since=time.time(), **changes)
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(asdict(self.status)) + "\n")


def read_status(path: Path) -> Status | None:
    """Return what the file says; None where there is none.

    Raises
    ------
    UserError
        The file cannot be read, is cut off, or says something else than a run's status.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged, not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: found a {type(found).__name__}, expected the status of a run")
    return parse(Status, found, str(path))
