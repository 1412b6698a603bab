"""Processes that end with the block that started them, whatever ends it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from common.flower_environment import SETTINGS

BIN = Path(sys.executable).parent
STOP_S = 5.0


class Processes:
    """Processes in groups of their own, so that what they start ends with them.

    Parameters
    ----------
    folder
        Working folder of all of them; ``NAME.log`` takes the output of each, ``home-NAME`` is
        its Flower home. A process started again under its name goes on with both.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        namespace: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command, inside a network namespace where one is named."""
        home = self.folder / f"home-{name}"
        home.mkdir(exist_ok=True)
        variables = {
            **os.environ,
            "FLWR_HOME": str(home),
            **SETTINGS,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            **(environment or {}),
        }
        prefix = ["ip", "netns", "exec", namespace] if namespace else []
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, *command],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and all that it started: SIGSTOP, SIGCONT."""
        _signal_group(self.running[name].pid, number)

    def kill(self, name: str) -> None:
        """End a process and all that it started without a word."""
        self.signal(name, signal.SIGKILL)
        self.running.pop(name).wait()

    def dead(self) -> list[str]:
        """Return the names of processes that have ended."""
        return [name for name, process in self.running.items() if process.poll() is not None]

    def stop(self) -> None:
        """End every group, first asking, then not; those started last go first."""
        families = [family(process.pid) for process in self.running.values()]
        for process in reversed(self.running.values()):
            _signal_group(process.pid, signal.SIGTERM)
            _signal_group(process.pid, signal.SIGCONT)
        for process, members in zip(self.running.values(), families, strict=True):
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            # flower-superexec may outlive its parent, in a group of its own
            _signal_group(process.pid, signal.SIGKILL)
            for member in members:
                with suppress(ProcessLookupError):
                    os.kill(member, signal.SIGKILL)
            process.wait()


def family(ancestor: int) -> list[int]:
    """Return a process and all that it and its children have started, in any group."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended since it was listed
            parent = path.read_text("utf-8").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    members = [ancestor]
    for member in members:  # it grows
        members += children.get(member, [])
    return members


def _signal_group(leader: int, number: signal.Signals) -> None:
    """Signal a group and what its leader has started beside it, as flower-superexec."""
    others = family(leader)[1:]
    with suppress(ProcessLookupError):
        os.killpg(leader, number)
    for other in others:
        with suppress(ProcessLookupError):
            if os.getpgid(other) != leader:
                os.kill(other, number)


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Yield a set of processes and end them with the block."""
    running = Processes(folder)
    try:
        yield running
    finally:
        running.stop()


def clean_up_when_told_to_end() -> None:
    """Let SIGTERM and SIGHUP end this script by an exception, so that every block is left."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on now, and that are given to nobody else.

    A port is bound seconds after its choice only, and gRPC shares one that is bound already without
    a word. Until this process ends an abstract socket of the port's number keeps every other call
    from it, in other processes too.
    """
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one:
            one.bind(("", 0))
            port = int(one.getsockname()[1])
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0rate-my-lora-port-{port}")
        except OSError:  # given to another
            mark.close()
        else:
            mark.detach()  # it stays open
            found.append(port)
    return found
