"""Processes that end with the block that started them, whatever ends the block."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from common import flower_environment

STOP_S = 5.0


class Processes:
    """Named processes, each in a group of its own, so that its children end with it.

    Parameters
    ----------
    folder
        Working folder of all processes. A process called NAME prints to ``NAME.log`` and has its
        Flower home in ``home-NAME``, also when it is started a second time.
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
            **flower_environment.environment(),
            "FLWR_HOME": str(home),
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
        """Return what a process has printed so far."""
        path = self.folder / f"{name}.log"
        return path.read_text("utf-8", "replace") if path.is_file() else ""

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process and its children."""
        _signal_group(self.running[name].pid, number)

    def kill(self, name: str) -> None:
        """Kill a process and its children."""
        self.signal(name, signal.SIGKILL)
        self.running.pop(name).wait()

    def dead(self) -> list[str]:
        """Return the names of processes that have ended."""
        return [name for name, process in self.running.items() if process.poll() is not None]

    def stop(self) -> None:
        """Ask every group to end, the last started first, then kill what is left after 5 s."""
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
    """Return the ids of a process and of its descendants, in whatever group."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended since it was listed
            parent = path.read_text("utf-8").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    members = [ancestor]
    for member in members:  # the list grows meanwhile
        members += children.get(member, [])
    return members


def _signal_group(leader: int, number: signal.Signals) -> None:
    """Signal a group, and the descendants of its leader in other groups (flower-superexec)."""
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
    """Let SIGTERM and SIGHUP raise an exception, so that every block cleans up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda raised, _: sys.exit(128 + raised))


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens on and that no other call of this function returns.

    A process binds its port only seconds after the choice, and gRPC silently shares a port that is
    bound already. So an abstract socket named after the port marks it as taken, for calls in other
    processes too, until this process ends.
    """
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as one:
            one.bind(("", 0))
            port = int(one.getsockname()[1])
        mark = socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0rate-my-lora-port-{port}")
        except OSError:  # another call has returned this port
            mark.close()
        else:
            mark.detach()  # so that the socket stays open
            found.append(port)
    return found
