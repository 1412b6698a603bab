"""``rate-my-lora join``: a hospital's part in a federation, from one file of settings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from cli.shared import console
from cli.site_check import check_places, check_site
from client_app.runner import Runner, wait_until_ready
from client_app.settings import SiteSettings
from common.errors import UserError
from common.options import Value, checked, option
from server_app.settings import read_toml

STOP_S = 10.0
PAUSE_S = 10.0
"""Before a SuperNode that ended is started again."""
QUICK_S = 60.0
TRIES = 8
"""How many SuperNodes in a row may end within ``QUICK_S``. With the pauses they outlast the minute
for which a SuperLink takes a site that was killed to be connected still, and refuses it."""
SIMULATED = ("partition-id", "num-partitions")
"""Keys that a site of its own does not have."""


@dataclass(frozen=True)
class Connection:
    """The keys of a site's file that are about the network; the others are its node config."""

    superlink: str = ""
    """``host:port`` of the coordinator's SuperLink, the one connection that is made outward."""
    root_certificates: str = ""
    """Certificate authority that the SuperLink's certificate is checked against."""
    private_key: str = ""
    """The site's own key; its public half is registered at the SuperLink."""
    insecure: bool = False
    """Whether to go without TLS and key: for trying out on one machine only."""
    local_port: int = option(9094, low=1, high=65535)
    """Port on the loopback interface between the SuperNode and the app."""
    health: str = ""
    """``host:port`` of the SuperNode's gRPC health service; empty for none."""

    def check(self, source: Path) -> None:
        """Check that the connection can be made and its files are there.

        Raises
        ------
        UserError
            A key is missing, stands against another, or names a file that is not there.
        """
        addresses = {
            "superlink": self.superlink,
            **({"health": self.health} if self.health else {}),
        }
        for key, value in addresses.items():
            host, _, port = value.rpartition(":")
            if not host or "/" in host or not port.isdecimal():
                raise UserError(f"{source}: {key}: found {value!r}, expected host:port")
        files = {"root-certificates": self.root_certificates, "private-key": self.private_key}
        for key, value in files.items():
            if self.insecure and value:
                raise UserError(f"{source}: {key} and insecure = true exclude each other")
            if not self.insecure and not value:
                raise UserError(
                    f"{source}: found no {key!r}; it is needed unless insecure = true is set"
                )
            if value and not Path(value).expanduser().is_file():
                raise UserError(f"{source}: {key}: {value}: no such file")
        if self.private_key:
            _check_key(Path(self.private_key).expanduser(), source)

    def command(self, node: Mapping[str, Value]) -> list[str]:
        """Return the command of the SuperNode with its node configuration."""
        words = [str(Path(sys.executable).with_name("flower-supernode"))]
        words += ["--superlink", self.superlink, "--isolation", "process"]
        words += ["--clientappio-api-address", self.local_address]
        if self.insecure:
            words += ["--insecure"]
        else:
            words += ["--root-certificates", str(Path(self.root_certificates).expanduser())]
            words += ["--auth-supernode-private-key", str(Path(self.private_key).expanduser())]
        if self.health:
            words += ["--health-server-address", self.health]
        pairs = (f"{key}={_toml(value)}" for key, value in node.items())
        return [*words, "--node-config", " ".join(pairs)]

    @property
    def local_address(self) -> str:
        """Where the SuperNode and the app meet."""
        return f"127.0.0.1:{self.local_port}"


def _check_address(key: str, value: str, source: Path) -> None:
    host, _, port = value.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UserError(f"{source}: {key}: found {value!r}, expected host:port")


def _check_key(path: Path, source: Path) -> None:
    try:
        key: object = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UserError(f"{source}: private-key: {path} holds none of 'rate-my-lora site-key'")


def read_site(path: Path) -> tuple[Connection, dict[str, Value]]:
    """Read a site's file.

    Returns
    -------
    connection : Connection
        Checked.
    node : dict
        The node configuration, whose values :class:`SiteSettings` checks.

    Raises
    ------
    UserError
        The file cannot be read, a key is wrong, or a value of the connection.
    """
    flat = read_toml(path)
    specs = {spec.name.replace("_", "-"): spec for spec in fields(Connection)}
    known = sorted({*specs, *SiteSettings.keys()} - set(SIMULATED))
    if unknown := sorted(set(flat) - {*known, *SIMULATED}):
        raise UserError(f"{path}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
    own = {
        specs[key].name: checked(key, value, specs[key], str(path))
        for key, value in flat.items()
        if key in specs
    }
    node = {key: value for key, value in flat.items() if key not in specs}
    for key in SIMULATED:
        if key in node:
            raise UserError(f"{path}: {key}: is of simulations, expected a site of its own")
    for key in ("data-dir", "base-model"):
        if not node.get(key):
            raise UserError(f"{path}: found no {key!r}, expected where this site's is")
    for key, value in node.items():
        if isinstance(value, str) and '"' in value:
            raise UserError(f"{path}: {key}: found a double quote, which Flower cannot pass on")
    connection = Connection(**own)  # type: ignore[arg-type]
    connection.check(path)
    return connection, node


def join(
    file: Annotated[Path, typer.Argument(help="TOML file of the site.", metavar="SITE.toml")],
    check: Annotated[
        bool, typer.Option("--check", help="Try all that the site needs, then leave.")
    ] = False,
) -> None:
    """Take part in a federation as a site until told to stop.

    Starts a SuperNode and answers its messages with this installed version of the app; code that
    comes with a run is not executed. A SuperNode that ends by itself is started again.
    """
    connection, node = read_site(file)
    settings = SiteSettings.from_node(node, str(file))
    if check:
        check_site(settings, connection.health, file)
        return
    check_places(settings, file)
    signal.signal(signal.SIGTERM, _leave)
    try:
        with tempfile.TemporaryDirectory(prefix="rate-my-lora-") as home:
            _stay(connection, connection.command(node), home)
    except KeyboardInterrupt:
        return


def _stay(connection: Connection, command: Sequence[str], home: str) -> None:
    """Run SuperNodes one after the other.

    Raises
    ------
    UserError
        ``TRIES`` of them in a row ended at once.
    """
    quick = 0
    while True:
        started = time.monotonic()
        with _supernode(command, home) as supernode:

            def alive(process: "subprocess.Popen[bytes]" = supernode) -> bool:
                return process.poll() is None

            if wait_until_ready(connection.local_address, alive):
                Runner(connection.local_address).serve(alive)
        ended = f"the SuperNode for {connection.superlink} ended; its last lines say why"
        quick = quick + 1 if time.monotonic() - started < QUICK_S else 0
        if quick == TRIES:
            raise UserError(ended)
        console.print(f"{ended}. Starting it again in {PAUSE_S:g} s")
        time.sleep(PAUSE_S)


@contextmanager
def _supernode(command: Sequence[str], home: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a SuperNode that ends with the block, or with this process."""
    environment = {"FLWR_HOME": home, **os.environ, "FLWR_TELEMETRY_ENABLED": "0"}
    process = subprocess.Popen(_bound_to_us(command), env=environment)  # noqa: S603
    try:
        yield process
    finally:
        _end(process)


def _leave(number: int, _: FrameType | None) -> None:
    """Let SIGTERM end the process by an exception, so that the SuperNode ends with it."""
    sys.exit(0)


def _bound_to_us(command: Sequence[str]) -> list[str]:
    """Let the command end when this process is killed, where util-linux is there to see to it."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else [*command]


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _toml(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
