"""docker-compose.yml as processes of this machine: what its containers do, without an engine.

Every service gets a folder in place of its root, in which the volumes are symbolic links; paths in
its command, environment and files are turned into that folder's, host names and ports into free
ones of the loopback interface.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import free_ports
from tests.test_simulation import ROOT

APP = ("common", "strategies", "cardiac", "client_app", "server_app", "results", "cli",
       "configs", "deploy", "pyproject.toml", "README.md", "LICENSE")  # fmt: skip
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
PORT = re.compile(r"--port=(\d+)")
ADDRESS = re.compile(r"\b(superlink|127\.0\.0\.1|0\.0\.0\.0):(\d+)\b")


def read_services(path: Path, variables: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file with its variables filled in."""
    services: dict[str, dict[str, Any]] = filled(yaml.safe_load(path.read_text("utf-8")), variables)
    return services["services"]


def filled(value: Any, variables: Mapping[str, str]) -> Any:
    """Replace ``${NAME:-default}`` in every text."""
    if isinstance(value, dict):
        return {key: filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, variables) for item in value]
    if isinstance(value, str):
        return VARIABLE.sub(lambda match: variables.get(match[1], match[2]), value)
    return value


class Composed:
    """The services of a compose file on this machine.

    Parameters
    ----------
    services
        As in the file.
    folder
        Takes volumes, roots and the folders of the host that are mounted.
    """

    def __init__(self, services: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        self.services = services
        self.folder = folder
        self.ports: dict[tuple[str, str], int] = {}

    @cached_property
    def app(self) -> Path:
        """A copy of what the image has in ``/app``."""
        app = self.folder / "app"
        app.mkdir()
        files = [str(ROOT / name) for name in APP]
        subprocess.run(["cp", "-r", *files, str(app)], check=True)
        return app

    def volume(self, name: str) -> Path:
        """Return the folder that stands for a volume."""
        path = self.folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def root(self, service: str) -> Path:
        """Return the folder that stands for a service's root, its mounts in it."""
        root = self.folder / "roots" / service
        if root.exists():
            return root
        root.mkdir(parents=True)
        if service != "superlink":
            self.root("superlink")
        (root / "app").symlink_to(self.app)
        files = []
        for mount in self.services[service].get("volumes", ()):
            source, target = mount.split(":")[:2]
            place = root / target.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_file():
                files.append(Path(shutil.copy(ROOT / source, place)))
            elif source.startswith("."):
                (self.folder / source).mkdir(parents=True, exist_ok=True)
                place.symlink_to(self.folder / source)
            else:
                place.symlink_to(self.volume(source))
        for file in files:
            self.rewrite(service, file)
        return root

    def local(self, service: str, text: str) -> str:
        """Turn a text of a container into one of this machine.

        A path that the service does not have is one of the SuperLink: of its folders speaks the
        configuration of a run.
        """
        for root in (self.folder / "roots" / name for name in (service, "superlink")):
            tops = "|".join(path.name for path in root.iterdir())
            text = re.sub(rf"(?<![\w./])/(?=(?:{tops})\b)", f"{root}/", text)
        text = PORT.sub(lambda m: f"--port={self.port(service, '127.0.0.1', m[1])}", text)
        return ADDRESS.sub(lambda m: f"127.0.0.1:{self.port(service, m[1], m[2])}", text)

    def port(self, service: str, host: str, number: str) -> int:
        """Return the port here of one in the network of a host, as a service sees it."""
        shared = self.services[service].get("network_mode", "").partition("service:")[2]
        if host != "superlink" and int(number) in self.ports.values():
            return int(number)  # turned already
        key = ("superlink" if host == "superlink" else shared or service, number)
        if key not in self.ports:
            (self.ports[key],) = free_ports(1)
        return self.ports[key]

    def rewrite(self, service: str, path: Path, more: str = "") -> None:
        """Turn a file of a container into one of this machine."""
        path.write_text(self.local(service, path.read_text(encoding="utf-8")) + more)

    def command(self, service: str) -> list[str]:
        """Return a service's command, with its environment."""
        self.root(service)
        spec = self.services[service]
        environment = {"OMP_NUM_THREADS": "1", **spec.get("environment", {})}
        words = [f"{key}={value}" for key, value in environment.items()]
        return ["env", *(self.local(service, word) for word in (*words, *spec["command"]))]

    def health(self, service: str) -> list[str]:
        """Return the command of a service's health check."""
        kind, *words, code = self.services[service]["healthcheck"]["test"]
        assert kind == "CMD"

        def here(match: re.Match[str]) -> str:
            return f"'127.0.0.1', {self.port(service, '127.0.0.1', match[1])}"

        return [*words, re.sub(r"'127\.0\.0\.1', (\d+)", here, self.local(service, code))]
