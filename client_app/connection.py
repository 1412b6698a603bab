"""A site's TOML file: its settings, and how it connects to its coordinator."""

import json
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from client_app.settings import SiteSettings
from common.errors import UserError
from common.flower_environment import SCRIPTS
from common.options import Check, option, parse, read_toml, to_flat

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Connection:
    """The keys of a site's file that say how it connects; :class:`SiteSettings` has the others."""

    superlink: str = ""
    """``host:port`` of the coordinator's SuperLink, the only address that the site connects to."""
    root_certificates: str = ""
    """File of the certificate authority that must have signed the SuperLink's certificate."""
    private_key: str = ""
    """File of the site's private key, whose public half is registered at the SuperLink."""
    insecure: bool = False
    """Whether to connect without TLS and key, for trials on one machine only."""
    local_port: int = option(9094, low=1, high=65535)
    """Port on the loopback interface between the SuperNode and the app."""
    health: str = ""
    """``host:port`` of the SuperNode's gRPC health service; empty for none."""

    def checks(self) -> list[Check]:
        """Return the checks of addresses, and of the files that TLS needs."""
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
        """Return the paths of the files that TLS needs, by key."""
        return {"root-certificates": self.root_certificates, "private-key": self.private_key}

    def check_files(self, source: Path) -> None:
        """Check that the files of :meth:`files` are there.

        Raises
        ------
        UserError
            A file is missing, or ``private-key`` holds no key or one that others may read;
            ``source`` is the site's file.
        """
        for key, value in self.files().items():
            if value and not Path(value).expanduser().is_file():
                raise UserError(f"{source}: {key}: {value}: no such file")
        if self.private_key and not _holds_key(path := Path(self.private_key).expanduser()):
            raise UserError(f"{source}: private-key: {path} holds none of 'rate-my-lora site-key'")
        if self.private_key and (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
            raise UserError(
                f"{source}: private-key: {path}: found mode {mode:04o}, by which others may use "
                f"the key, expected 0600: chmod 600 {path}"
            )

    def command(self, site: SiteSettings) -> list[str]:
        """Return the command of the SuperNode, with the site's settings as node configuration."""
        words = [str(SCRIPTS / "flower-supernode")]
        words += ["--superlink", self.superlink, "--isolation", "process"]
        words += ["--host", LOOPBACK, "--port", str(self.local_port)]
        if self.insecure:
            words += ["--insecure"]
        else:
            words += ["--root-certificates", str(Path(self.root_certificates).expanduser())]
            words += ["--auth-supernode-private-key", str(Path(self.private_key).expanduser())]
        if self.health:
            words += ["--health-server-address", self.health]
        defaults = to_flat(SiteSettings())
        pairs = {key: value for key, value in to_flat(site).items() if value != defaults[key]}
        texts = (f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in pairs.items())
        return [*words, "--node-config", " ".join(texts)]

    @property
    def local_address(self) -> str:
        """``host:port`` at which the SuperNode listens for the app, on this machine only."""
        return f"{LOOPBACK}:{self.local_port}"


@dataclass(frozen=True)
class SiteFile:
    """All keys of a site's file."""

    connection: Connection
    site: SiteSettings

    def checks(self) -> list[Check]:
        """Return the checks that the site names its data and its base model."""
        places = {"data-dir": self.site.data_dir, "base-model": self.site.base_model}
        return [(key, at or None, bool(at), "this site's path") for key, at in places.items()]


def read_site(path: Path) -> tuple[Connection, SiteSettings]:
    """Read a site's file and check that the files that its connection needs are there.

    Raises
    ------
    UserError
        As :func:`read_site_file`, or a file that it names is missing.
    """
    file = read_site_file(path)
    file.connection.check_files(path)
    return file.connection, file.site


def read_site_file(path: Path) -> SiteFile:
    """Read a site's file.

    Raises
    ------
    UserError
        The file cannot be read, a key is unknown or missing, or a value is wrong.
    """
    flat = read_toml(path)
    for key in ("partition-id", "num-partitions"):
        if key in flat:
            raise UserError(f"{path}: {key}: belongs to simulations, expected no such key")
    for key, value in flat.items():
        if isinstance(value, str) and '"' in value:
            raise UserError(f"{path}: {key}: found a double quote, which Flower cannot pass on")
    return parse(SiteFile, flat, str(path), partition=None, partitions=None)


def _is_address(value: str) -> bool:
    host, _, port = value.rpartition(":")
    return bool(host) and "/" not in host and port.isdecimal()


def _holds_key(path: Path) -> bool:
    try:
        key: object = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return isinstance(key, EllipticCurvePrivateKey)
