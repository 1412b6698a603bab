"""A network interface for one site: a namespace and a veth pair, which can be slowed or cut.

    host                                     namespace NAME
    SuperLink ── host address  NAME ════ veth pair ════ eth0  site address ── SuperNode

Namespace and interfaces are removed whatever ends the block. This needs root (or CAP_NET_ADMIN and
CAP_SYS_ADMIN) and ``ip``; limiting the rate needs ``tc``.
"""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

PREFIX = 30
"""Bits of an address that both ends of a link have in common."""
HEADERS = 14 + 20 + 32
"""Bytes of the Ethernet, IPv4 and TCP headers (with timestamps) of a packet."""


class NotPermittedError(Exception):
    """Network namespaces cannot be made on this machine or by this user."""


@dataclass(frozen=True)
class Counters:
    """Bytes and packets that have crossed an interface so far; "up" is away from the site."""

    bytes_up: int
    bytes_down: int
    packets_up: int
    packets_down: int

    def __sub__(self, other: "Counters") -> "Counters":
        ours, theirs = astuple(self), astuple(other)
        return Counters(*(now - before for now, before in zip(ours, theirs, strict=True)))

    @property
    def stream_up(self) -> int:
        """Bytes that gRPC handed to TCP, without the packets' headers."""
        return self.bytes_up - HEADERS * self.packets_up

    @property
    def stream_down(self) -> int:
        """Bytes that TCP handed to gRPC, without the packets' headers."""
        return self.bytes_down - HEADERS * self.packets_down


@dataclass(frozen=True)
class Link:
    """A site's link to the host."""

    name: str = "rml-wire"
    """Name of the namespace, and of the veth end on the host."""
    host: str = "10.77.0.1"
    """Address of the host's end."""
    site: str = "10.77.0.2"
    """Address of the site's end."""

    def counters(self) -> Counters:
        """Read the counters of the host's end, which receives what the site sends."""
        folder = Path("/sys/class/net", self.name, "statistics")
        kinds = ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets")
        return Counters(*(int((folder / kind).read_text()) for kind in kinds))

    def cut(self) -> None:
        """Drop every packet from now on, as if the cable were pulled."""
        _run("ip", "link", "set", "dev", self.name, "down")

    def restore(self) -> None:
        """Put the cable back."""
        _run("ip", "link", "set", "dev", self.name, "up")

    def shape(self, mbit_up: float, mbit_down: float) -> None:
        """Limit the rate of each direction, in megabits a second."""
        inside = ["-n", self.name]
        for where, device, rate in ((inside, "eth0", mbit_up), ([], self.name, mbit_down)):
            bucket = ("rate", f"{rate:g}mbit", "burst", "8kb", "latency", "2s")
            _run("tc", *where, "qdisc", "replace", "dev", device, "root", "tbf", *bucket)


WIRE = Link()


@contextmanager
def namespace(link: Link = WIRE, *, frames: bool = False) -> Iterator[Link]:
    """Make a namespace with its veth pair; remove both at the end of the block.

    Parameters
    ----------
    link
        Name and addresses of the link.
    frames
        Whether packets are cut to fit an Ethernet frame, as a network card does. Otherwise the
        kernel passes up to 64 KiB over a veth pair as one packet with one set of headers.

    Raises
    ------
    NotPermittedError
        The kernel or the user's rights forbid it, or another run has left such a namespace.
    """
    _run("ip", "netns", "add", link.name)
    try:
        _run("ip", "link", "add", link.name, "type", "veth", "peer", "name", "eth0",
             "netns", link.name)  # fmt: skip
        inside = ["-n", link.name]
        for device, address, where in ((link.name, link.host, []), ("eth0", link.site, inside)):
            # No IPv6: its router and neighbour messages would be counted
            _run("ip", *where, "link", "set", "dev", device, "addrgenmode", "none")
            if frames:
                _run("ip", *where, "link", "set", "dev", device, "gso_max_segs", "1")
            _run("ip", *where, "address", "add", f"{address}/{PREFIX}", "dev", device)
            _run("ip", *where, "link", "set", "dev", device, "up")
        _run("ip", *inside, "link", "set", "dev", "lo", "up")
        yield link
    finally:
        subprocess.run(["ip", "netns", "del", link.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", link.name], check=False, capture_output=True)


def _run(*words: str) -> None:
    if shutil.which(words[0]) is None:
        raise NotPermittedError(f"the command {words[0]!r} (iproute2) is not installed")
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        raise NotPermittedError(f"{' '.join(words)}: {done.stderr.strip()}")
