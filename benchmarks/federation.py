"""A federation of local processes over gRPC, with TLS and site keys where they are asked for.

:mod:`benchmarks.processes` sees to their end, :mod:`benchmarks.namespaces` puts some of them behind
a network interface of their own.
"""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from benchmarks.flower_private import ControlHttpClient, RegisterNodeRequest, public_key_to_bytes
from benchmarks.processes import Processes, free_ports
from common.certificates import make_authority, make_site_key

START_S = 90.0
TRIES = 3
LOOPBACK = "127.0.0.1"

Value = bool | int | float | str


@dataclass(frozen=True)
class Tls:
    """A certificate authority's folder, with the SuperLink's certificate."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, *hosts: str, days: int = 30) -> "Tls":
        """Make both; a certificate of 0 days has expired already."""
        make_authority(folder, list(hosts or (LOOPBACK,)), days)
        return cls(folder)

    @property
    def root(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.pem"

    def options(self) -> list[str]:
        """Return the options of a SuperLink that asks for registered keys."""
        return [
            *("--ssl-ca-certfile", str(self.root)),
            *("--ssl-certfile", str(self.folder / "server.pem")),
            *("--ssl-keyfile", str(self.folder / "server.key")),
            "--enable-supernode-auth",
        ]


def start_superlink(
    running: Processes,
    host: str,
    *,
    tls: Tls | None = None,
    ports: Sequence[int] = (),
    name: str = "superlink",
) -> list[int]:
    """Start a SuperLink; return its ports for SuperNodes (at ``host``) and for all else.

    It listens when this returns: ``flwr run`` gives up at once where nothing does. Another
    process may take a port between its choice and its use; then others are tried. With TLS it has
    a database, ``NAME.db``, and with ``ports``, those of the one before it, it goes on where that
    was killed.

    Raises
    ------
    RuntimeError
        It ended or did not listen in time, on any ports.
    """
    for _ in range(TRIES):
        fleet, control = chosen = list(ports) or free_ports(2)
        listens = ["--fleet-api-address", f"{host}:{fleet}"]
        listens += ["--host", LOOPBACK, "--port", str(control)]
        security = [*tls.options(), "--database", f"{name}.db"] if tls else ["--insecure"]
        process = running.start(name, ["rate-my-lora", "superlink", *security, *listens])
        if all(_listens(process, at) for at in ((host, fleet), (LOOPBACK, control))):
            return chosen
        running.kill(name)
    raise RuntimeError(f"the SuperLink does not listen:\n{running.log(name)}")


def _listens(process: subprocess.Popen[bytes], address: tuple[str, int]) -> bool:
    """Wait until a process accepts connections at an address; False if it ends or never does."""

    def accepts() -> bool:
        with suppress(OSError), socket.create_connection(address, timeout=1):
            return True
        return False

    return _within(process, accepts)


def _within(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> bool:
    """Wait for something; False if the process ends before or it takes too long."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        if until():
            return True
        time.sleep(0.1)
    return False


@contextmanager
def control_api(port: int, tls: Tls) -> Iterator[ControlHttpClient]:
    """Yield what talks to a SuperLink as ``flwr`` does."""
    client = ControlHttpClient.from_server_address(
        f"{LOOPBACK}:{port}",
        insecure=False,
        root_certificates=tls.root.read_bytes(),
        interceptors=[],
    )
    try:
        yield client
    finally:
        client.close()


def new_key(folder: Path, site: str) -> Path:
    """Make a site's key."""
    path = folder / f"{site}.key"
    make_site_key(path)
    return path


def register(control: int, tls: Tls, key: Path) -> int:
    """Register a key's public half, as ``flwr supernode register`` does; return the node."""
    public = load_ssh_public_key(key.with_name(key.name + ".pub").read_bytes())
    request = RegisterNodeRequest(public_key=public_key_to_bytes(public))  # type: ignore[arg-type]
    with control_api(control, tls) as client:
        return int(client.RegisterNode(request).node_id)


def start_supernode(
    running: Processes, superlink: str, node: Mapping[str, str], *, namespace: str = ""
) -> None:
    """Start the SuperNode of a site with its node configuration, without TLS."""
    (local_port,) = free_ports(1)
    running.start(
        node["site"],
        [
            *("flower-supernode", "--insecure", "--superlink", superlink),
            *("--host", LOOPBACK, "--port", str(local_port)),
            *("--node-config", flower_config(node)),
        ],
        namespace=namespace,
    )


def start_site(
    running: Processes,
    settings: Mapping[str, Value],
    *,
    namespace: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Start ``rate-my-lora join`` with a site's settings, as a hospital does."""
    site = str(settings["site"])
    file = running.folder / f"{site}.toml"
    (local_port,) = free_ports(1)
    file.write_text(tomli_w.dumps({**settings, "local-port": local_port}), encoding="utf-8")
    command = ["rate-my-lora", "join", str(file)]
    running.start(site, command, namespace=namespace, environment=environment)


def start_run(
    running: Processes,
    control: int,
    app: Path,
    config: Mapping[str, Value],
    *,
    tls: Tls | None = None,
) -> subprocess.Popen[bytes]:
    """Start ``flwr run`` on an app; it ends when the run does.

    Flower keeps connections in its home folder. It would move those of the app's
    ``pyproject.toml`` there and comment them out in the file, so ``app`` should be a copy.
    """
    home = running.folder / "home-run"
    home.mkdir(exist_ok=True)
    trust: dict[str, Value] = {"root-certificates": str(tls.root)} if tls else {"insecure": True}
    connection = {"address": f"{LOOPBACK}:{control}", **trust}
    text = tomli_w.dumps({"superlink": {"local": connection}})
    (home / "config.toml").write_text(text, encoding="utf-8")
    return running.start(
        "run",
        ["flwr", "run", str(app), "local", "--stream", "--run-config", flower_config(config)],
    )


def flower_config(values: Mapping[str, Value]) -> str:
    """Write values as Flower's ``key=value`` pairs."""
    return " ".join(f"{key}={_toml(value)}" for key, value in values.items())


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
