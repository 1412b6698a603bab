"""How a site reaches its coordinator, and the file that says it."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client_app.settings import SiteSettings
from common.errors import UserError
from common.options import Check, Value, option, parse, read_toml, to_flat


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

    def checks(self) -> list[Check]:
        """Return what must hold between keys, with the key to blame."""
        needed = "a file, or insecure = true"
        excluded = "none, as it and insecure = true exclude each other"
        return [
            ("superlink", self.superlink, _is_address(self.superlink), "host:port"),
            ("health", self.health, not self.health or _is_address(self.health), "host:port"),
            *(
                (key, path or None, bool(path) != self.insecure, excluded if path else needed)
                for key, path in self.files().items()
            ),
        ]

    def files(self) -> dict[str, str]:
        """Return the paths of files by their keys."""
        return {"root-certificates": self.root_certificates, "private-key": self.private_key}

    def check_files(self, source: Path) -> None:
        """Check that the files are there.

        Raises
        ------
        UserError
            One is not, or holds no key.
        """
        for key, value in self.files().items():
            if value and not Path(value).expanduser().is_file():
                raise UserError(f"{source}: {key}: {value}: no such file")
        if self.private_key:
            _check_key(Path(self.private_key).expanduser(), source)

    def command(self, site: SiteSettings) -> list[str]:
        """Return the command of the SuperNode, with the site's settings as node configuration."""
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
        defaults = to_flat(SiteSettings())
        pairs = (f"{k}={_toml(v)}" for k, v in to_flat(site).items() if v != defaults[k])
        return [*words, "--node-config", " ".join(pairs)]

    @property
    def local_address(self) -> str:
        """Where the SuperNode and the app meet."""
        return f"127.0.0.1:{self.local_port}"


@dataclass(frozen=True)
class SiteFile:
    """The keys of a site's file."""

    connection: Connection
    site: SiteSettings

    def checks(self) -> list[Check]:
        """Return what must hold, with the key to blame."""
        places = {"data-dir": self.site.data_dir, "base-model": self.site.base_model}
        return [
            (key, value or None, bool(value), "where this site's is")
            for key, value in places.items()
        ]


def read_site(path: Path) -> tuple[Connection, SiteSettings]:
    """Read a site's file and look for the files that its connection needs.

    Raises
    ------
    UserError
        The file cannot be read, a key is unknown or missing, a value is wrong, or it names a file
        that is not there.
    """
    flat = read_toml(path)
    for key in ("partition-id", "num-partitions"):
        if key in flat:
            raise UserError(f"{path}: {key}: is of simulations, expected a site of its own")
    for key, value in flat.items():
        if isinstance(value, str) and '"' in value:
            raise UserError(f"{path}: {key}: found a double quote, which Flower cannot pass on")
    file = parse(SiteFile, flat, str(path), partition=None, partitions=None)
    file.connection.check_files(path)
    return file.connection, file.site


def _is_address(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal()


def _check_key(path: Path, source: Path) -> None:
    try:
        key: object = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UserError(f"{source}: private-key: {path} holds none of 'rate-my-lora site-key'")


def _toml(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False)
