"""``status.json``: where a run stands, for programs that watch it."""

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import parse_json, write_text
from common.options import option, parse
from common.text import clean

ERROR_LENGTH = 2000
"""Most letters of an error; it may have a reason of each site."""
RUNNING, FINISHED, FAILED, STOPPED = "running", "finished", "failed", "stopped"


@dataclass(frozen=True)
class Status:
    """Where a run stands."""

    rounds: int = option(low=0, high=100_000)
    """Number of rounds of the whole run."""
    state: str = option(RUNNING, choices=(RUNNING, FINISHED, FAILED, STOPPED))
    """State of the run; a person ended a ``stopped`` one."""
    round: int = option(0, low=0, high=100_000)
    """The round that goes on, or went on last."""
    phase: str = "gather"
    """``gather``, ``rate base``, ``train``, ``validate`` or ``test``; empty after the end."""
    started: float = option(0.0, low=0, high=1e12)
    """When the run began, in seconds of Unix time."""
    since: float = option(0.0, low=0, high=1e12)
    """When the phase began, in seconds of Unix time."""
    host: str = ""
    pid: int = option(0, low=0, high=2**31 - 1)
    """The server's process on ``host``."""
    error: str = ""
    """Why the run failed."""
    saved: bool = True
    """Whether the folder's other files are this run's; until its first round is saved they are
    those of an earlier run."""
    run: str = ""
    """The run's id, which the sites approve."""
    settings: str = ""
    """SHA-256 of the run's settings; see ``server_app.run_dir.settings_of``."""
    waiting: tuple[str, ...] = option(())
    """Sites that are connected and have not approved the run."""

    def killed(self) -> bool:
        """Tell whether the server's process ended while "running"; only its own host can know."""
        if self.state != RUNNING or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
            state = Path(f"/proc/{self.pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except ProcessLookupError:
            return True
        except OSError:  # the process is another user's, or there is no /proc
            return False
        return state == "Z"  # ended, but not yet collected by its parent


class StatusFile:
    """Writes ``status.json`` at the start of a run and whenever its status changes."""

    def __init__(
        self, path: Path, rounds: int, *, saved: bool = True, run: str = "", settings: str = ""
    ) -> None:
        self.path = path
        now, host, pid = time.time(), socket.gethostname(), os.getpid()
        self.status = Status(
            *(rounds, RUNNING, 0, "gather", now, now, host, pid),
            saved=saved,
            run=run,
            settings=settings,
        )
        self._write()

    def phase(self, server_round: int, phase: str) -> None:
        """Note that a phase begins."""
        self._update(round=server_round, phase=phase)

    def wait(self, sites: Sequence[str]) -> None:
        """Note which sites have not approved the run."""
        self._update(since=self.status.since, waiting=tuple(sites))

    def save(self) -> None:
        """Note that the folder's files are this run's."""
        if not self.status.saved:
            self._update(saved=True)

    def finish(self) -> None:
        """Note that the run ended as planned."""
        self._update(state=FINISHED, phase="")

    def stop(self) -> None:
        """Note that somebody stopped the run."""
        self._update(state=STOPPED)

    def fail(self, error: BaseException) -> None:
        """Note that an error ended the run."""
        self._update(state=FAILED, error=clean(error, ERROR_LENGTH) or type(error).__name__)

    def _update(self, **changes: Any) -> None:
        self.status = replace(self.status, **{"since": time.time(), **changes})
        self._write()

    def _write(self) -> None:
        write_text(self.path, json.dumps(asdict(self.status)) + "\n")


def read_status(path: Path) -> Status | None:
    """Return the status in a file; None if the file is missing.

    Raises
    ------
    UserError
        The file cannot be read, or holds something else than a run's status.
    """
    try:
        found = parse_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: damaged, not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: found a {type(found).__name__}, expected the status of a run")
    return parse(Status, found, str(path))
