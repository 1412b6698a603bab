"""How a site reaches its coordinator, and the file that says it."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client_app.site_settings import SiteSettings
from common.errors import UserError
from common.options import Value, checked, option, read_toml

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
        words += ["--host", "127.0.0.1", "--port", str(self.local_port)]
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


def _check_key(path: Path, source: Path) -> None:
    try:
        key: object = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UserError(f"{source}: private-key: {path} holds none of 'rate-my-lora site-key'")


def _toml(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
