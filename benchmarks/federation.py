"""A federation of Flower processes on this machine, over gRPC, with TLS and site keys if asked.

:mod:`benchmarks.processes` ends the processes; :mod:`benchmarks.namespaces` gives single sites a
network interface of their own.
"""

import json
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

from benchmarks.flower_private import ControlHttpClient, RegisterNodeRequest, public_key_to_bytes
from benchmarks.processes import Processes, free_ports
from common.certificates import make_authority, make_site_key
from common.options import Value

START_S = 90.0
TRIES = 3
"""How often a SuperLink is started before the benchmark gives up; each time on other ports."""
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Tls:
    """The folder of a certificate authority that also holds the SuperLink's certificate."""

    folder: Path

    @classmethod
    def create(cls, folder: Path, *hosts: str, days: int = 30) -> "Tls":
        """Make the authority and the certificate; one of 0 days has expired already."""
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
    """Start a SuperLink; return its ports for SuperNodes (at ``host``) and for everything else.

    The SuperLink listens when this returns, because ``flwr run`` gives up at once where nothing
    listens. If another process takes a port meanwhile, other ports are tried. With TLS the
    SuperLink has a database, ``NAME.db``; given the ``ports`` of a killed SuperLink, the new one
    goes on from that database.

    Raises
    ------
    RuntimeError
        The SuperLink ended or did not listen in time in every attempt.
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
    """Wait until a process accepts connections; return False if it ends or never does."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(address, timeout=1):
            return True
        time.sleep(0.1)
    return False


@contextmanager
def control_api(port: int, tls: Tls) -> Iterator[ControlHttpClient]:
    """Yield a client of the SuperLink's control API, which the ``flwr`` command uses."""
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


def register(control: int, tls: Tls, key: Path) -> int:
    """Register a key's public half, as ``flwr supernode register`` does; return the node's id."""
    public = load_ssh_public_key(key.with_name(key.name + ".pub").read_bytes())
    request = RegisterNodeRequest(public_key=public_key_to_bytes(public))  # type: ignore[arg-type]
    with control_api(control, tls) as client:
        return int(client.RegisterNode(request).node_id)


SMALL: Mapping[str, Value] = {"min-train-patients": 1, "min-patients": 1}
"""Settings of a site whose few patients are phantoms, so that no number need hide them."""


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
            *("--node-config", flower_config({**SMALL, **node})),
        ],
        namespace=namespace,
    )


def join(
    running: Processes,
    control: int,
    tls: Tls,
    settings: Mapping[str, Value],
    *,
    namespace: str = "",
    environment: Mapping[str, str] | None = None,
) -> None:
    """Register a new key for a site and start ``rate-my-lora join``, as a hospital does.

    ``settings`` are the keys of the site's file, without the certificate, the private key, the
    cache, the local port, ``SMALL`` and ``approve = "any"``, which are filled in here.
    """
    site = str(settings["site"])
    key, file = running.folder / f"{site}.key", running.folder / f"{site}.toml"
    make_site_key(key)
    register(control, tls, key)
    (local_port,) = free_ports(1)
    places = {
        "root-certificates": str(tls.root),
        "private-key": str(key),
        "cache-dir": str(running.folder / "cache"),
        "approve": "any",
    }
    text = tomli_w.dumps({**places, "local-port": local_port, **SMALL, **settings})
    file.write_text(text, encoding="utf-8")
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

    Flower moves the connections in the app's ``pyproject.toml`` to its home folder and comments
    them out in the file, so ``app`` should be a copy.
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
    """Write values as Flower's ``key=value`` pairs, whose values are TOML."""
    return " ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in values.items())
