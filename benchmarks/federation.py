"""A federation of local processes over gRPC, one SuperNode behind a network interface of its own.

    host                                    namespace rml-wire
    SuperLink ── 10.77.0.1 rml-wire ════ veth pair ════ eth0 10.77.0.2 ── SuperNode that is measured
        └─────── the other SuperNodes, over the loopback interface

Whatever ends the block, processes, namespace and interfaces are gone after it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

NAME = "rml-wire"
"""Of the namespace, and of the veth end on the host."""
HOST, SITE = "10.77.0.1", "10.77.0.2"
PREFIX = 30
HEADERS = 14 + 20 + 32
"""Bytes of the Ethernet, IPv4 and TCP headers (with timestamps) of a packet."""
STOP_S = 5.0
START_S = 90.0
TRIES = 3


class NotPermittedError(Exception):
    """Network namespaces cannot be made on this machine or by this user."""


@dataclass(frozen=True)
class Counters:
    """What has crossed an interface so far, seen from the site."""

    bytes_up: int
    bytes_down: int
    packets_up: int
    packets_down: int

    def __sub__(self, other: "Counters") -> "Counters":
        return Counters(
            self.bytes_up - other.bytes_up,
            self.bytes_down - other.bytes_down,
            self.packets_up - other.packets_up,
            self.packets_down - other.packets_down,
        )

    @property
    def stream_up(self) -> int:
        """Bytes that gRPC handed to TCP, without the packets' headers."""
        return self.bytes_up - HEADERS * self.packets_up

    @property
    def stream_down(self) -> int:
        """Bytes that gRPC handed to TCP, without the packets' headers."""
        return self.bytes_down - HEADERS * self.packets_down


@contextmanager
def namespace(*, frames: bool) -> Iterator[None]:
    """Make the namespace with its veth pair, and remove both.

    Parameters
    ----------
    frames
        Cut packets to what fits an Ethernet frame, as a network card does. Left to itself the
        kernel hands up to 64 KiB over a veth pair as one packet with one set of headers.

    Raises
    ------
    NotPermittedError
        The kernel, the user's rights or a namespace left by another run stand in the way.
    """
    if shutil.which("ip") is None:
        raise NotPermittedError("the command 'ip' (iproute2) is not installed")
    _ip("netns", "add", NAME)
    try:
        _ip("link", "add", NAME, "type", "veth", "peer", "name", "eth0", "netns", NAME)
        for device, address, where in ((NAME, HOST, []), ("eth0", SITE, ["-n", NAME])):
            # No IPv6: its router and neighbour messages are not ours to count
            _ip(*where, "link", "set", "dev", device, "addrgenmode", "none")
            if frames:
                _ip(*where, "link", "set", "dev", device, "gso_max_segs", "1")
            _ip(*where, "address", "add", f"{address}/{PREFIX}", "dev", device)
            _ip(*where, "link", "set", "dev", device, "up")
        _ip("-n", NAME, "link", "set", "dev", "lo", "up")
        yield
    finally:
        subprocess.run(["ip", "netns", "del", NAME], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", NAME], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise NotPermittedError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def read_counters() -> Counters:
    """Read the counters of the host's end of the veth pair: what it receives, the site sent."""
    folder = Path("/sys/class/net", NAME, "statistics")
    kinds = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
    return Counters(*(int((folder / kind).read_text()) for kind in kinds))


class Processes:
    """Processes in groups of their own, so that what they start ends with them.

    Parameters
    ----------
    folder
        Working folder of all of them; ``NAME.log`` takes the output of each, ``home-NAME`` is
        its Flower home.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, command: Sequence[str], *, isolated: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a command, inside the namespace where ``isolated``."""
        home = self.folder / f"home-{name}"
        home.mkdir(exist_ok=True)
        environment = {
            **os.environ,
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            # Flower finds its helpers by name
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        prefix = ["ip", "netns", "exec", NAME] if isolated else []
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*prefix, *command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def dead(self) -> list[str]:
        """Return the names of processes that have ended."""
        return [name for name, process in self.running.items() if process.poll() is not None]

    def stop(self) -> None:
        """End every group, first asking, then not; those started last go first."""
        for process in reversed(self.running.values()):
            _signal_group(process.pid, signal.SIGTERM)
        for process in self.running.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            # flower-superexec may outlive its parent in the same group
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


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
    """Return ports that nothing listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start_superlink(running: Processes, host: str = HOST) -> tuple[str, str]:
    """Start a SuperLink; return its addresses for SuperNodes, at ``host``, and for ``flwr run``.

    It listens when this returns: ``flwr run`` gives up at once where nothing does. Another
    process may take a port between its choice and its use; then others are tried.

    Raises
    ------
    RuntimeError
        It ended or did not listen in time, on any ports.
    """
    for _ in range(TRIES):
        fleet, control, app_io = free_ports(3)
        process = running.start(
            "superlink",
            [
                *("flower-superlink", "--insecure"),
                *("--fleet-api-address", f"{host}:{fleet}"),
                *("--control-api-address", f"127.0.0.1:{control}"),
                *("--serverappio-api-address", f"127.0.0.1:{app_io}"),
            ],
        )
        addresses = ((host, fleet), ("127.0.0.1", control), ("127.0.0.1", app_io))
        if all(_listens(process, address) for address in addresses):
            return f"{host}:{fleet}", f"127.0.0.1:{control}"
        running.stop()
    log = (running.folder / "superlink.log").read_text(encoding="utf-8", errors="replace")
    raise RuntimeError(f"flower-superlink does not listen:\n{log}")


def _listens(process: subprocess.Popen[bytes], address: tuple[str, int]) -> bool:
    """Wait until a process accepts connections at an address; False if it ends or never does."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(address, timeout=1):
            return True
        time.sleep(0.1)
    return False


def start_supernode(
    running: Processes, superlink: str, node: Mapping[str, str], *, isolated: bool
) -> None:
    """Start the SuperNode of a site with its node configuration."""
    (app_io,) = free_ports(1)
    running.start(
        node["site"],
        [
            *("flower-supernode", "--insecure", "--superlink", superlink),
            *("--clientappio-api-address", f"127.0.0.1:{app_io}"),
            *("--node-config", flower_config(node)),
        ],
        isolated=isolated,
    )


def start_run(
    running: Processes, control: str, app: Path, config: Mapping[str, bool | int | float | str]
) -> subprocess.Popen[bytes]:
    """Start ``flwr run`` on an app; it ends when the run does.

    Flower keeps connections in its home folder. It would move those of the app's
    ``pyproject.toml`` there and comment them out in the file, so ``app`` should be a copy.
    """
    home = running.folder / "home-run"
    home.mkdir(exist_ok=True)
    text = f'[superlink.wire]\naddress = "{control}"\ninsecure = true\n'
    (home / "config.toml").write_text(text, encoding="utf-8")
    return running.start(
        "run",
        ["flwr", "run", str(app), "wire", "--stream", "--run-config", flower_config(config)],
    )


def flower_config(values: Mapping[str, bool | int | float | str]) -> str:
    """Write values as Flower's ``key=value`` pairs."""
    return " ".join(f"{key}={_toml(value)}" for key, value in values.items())


def _toml(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
