"""What each container of docker-compose.yml may see and do, and a federation by its commands."""

import hashlib
import json
import shutil
import subprocess
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.processes import Processes, processes
from cardiac.datasets import group_by_site, read_cases
from client_app.audit import OUT, PASSED, read_audit
from common.adapter import load_adapter
from tests.composed import Composed, read_services
from tests.test_simulation import ROOT, read_history

COMPOSE = ROOT / "docker-compose.yml"
FILES = (COMPOSE, ROOT / "deploy" / "site.compose.yml")
SITES = {"ge": "GE", "philips": "Philips", "siemens": "Siemens"}
SMALL = {
    "PATIENTS": "6",
    "RUN_CONFIG": 'features="4,4,8,8,8,4" rank=4 image-size=32 spacing-mm=5.0 rounds=1 '
    "threads=1 pretrain-epochs=1",
}
LIMIT_S = 140.0

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Composed, Processes]]:
    """Run every service in the order of docker-compose.yml's head, and yield when the run ended."""
    folder = tmp_path_factory.mktemp("compose")
    composed = Composed(read_services(COMPOSE, SMALL), folder)
    logs = folder / "logs"
    logs.mkdir()
    with processes(logs) as running:

        def run(service: str, name: str = "") -> None:
            status = running.start(name or service, composed.command(service)).wait(LIMIT_S)
            assert status == 0, (logs / f"{name or service}.log").read_text(encoding="utf-8")

        run("setup")
        before = contents(folder / "volumes")
        run("setup", "setup-again")
        assert contents(folder / "volumes") == before
        running.start("superlink", composed.command("superlink"))
        wait_until_healthy(composed, "superlink", running)
        run("register")
        run("register", "register-again")
        for site in SITES:
            command = composed.command(site)
            # Containers have loopback interfaces of their own, these processes share one
            port = composed.port(site, "127.0.0.1", "9094")
            settings = composed.root(site) / "site" / "site.toml"
            composed.rewrite(site, settings, f"local-port = {port}\n")
            running.start(site, command)
        for site in SITES:
            wait_until_healthy(composed, site, running)
        run("run")
        yield composed, running


def wait_until_healthy(composed: Composed, service: str, running: Processes) -> None:
    """Wait until the health check of a running service passes."""
    deadline = time.monotonic() + LIMIT_S
    while subprocess.run(composed.health(service), check=False, capture_output=True).returncode:
        assert service not in running.dead(), (running.folder / f"{service}.log").read_text()
        assert time.monotonic() < deadline, f"{service} is not healthy"
        time.sleep(0.5)


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.slow
@pytest.mark.network
def test_the_containers_commands_federate(federation: tuple[Composed, Processes]) -> None:
    composed, _ = federation
    result = composed.folder / "runs" / "compose"
    adapter, _ = load_adapter(result / "adapter.safetensors")
    assert adapter.rank == 4
    (_, line) = read_history(result)
    assert set(line["sites"]) == set(SITES.values())
    assert line["refused"] == []
    assert json.loads((result / "status.json").read_text())["state"] == "finished"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("service", SITES)
def test_a_site_holds_its_own_patients_and_key_alone(
    federation: tuple[Composed, Processes], service: str
) -> None:
    composed, _ = federation
    folder = composed.volume(service)
    assert {path.name for path in folder.iterdir()} == {
        "ca.pem", "key", "key.pub", "site.toml", "base.safetensors", "mnms2",
    }  # fmt: skip
    cases = read_cases(folder / "mnms2")
    assert set(group_by_site(cases, "VENDOR", folder)) == {SITES[service]}
    patients = {path.name for path in (folder / "mnms2" / "dataset").iterdir()}
    assert patients == {case.patient for case in cases}
    assert (folder / "key").stat().st_mode & 0o077 == 0
    keys = {(composed.volume(name) / "key").read_bytes() for name in SITES}
    assert len(keys) == len(SITES)


@pytest.mark.slow
@pytest.mark.network
def test_every_site_logs_what_left_it(federation: tuple[Composed, Processes]) -> None:
    composed, _ = federation
    for service, name in SITES.items():
        lines = list(read_audit(composed.volume(f"{service}-state") / f"audit-{name}.jsonl"))
        assert all(line["verdict"] == PASSED for line in lines)
        left = [line["kind"] for line in lines if line["direction"] == OUT]
        assert left == ["query.describe", "evaluate", "train", "evaluate", "evaluate.test"]


@pytest.mark.slow
@pytest.mark.network
def test_the_second_registration_changes_nothing(federation: tuple[Composed, Processes]) -> None:
    _, running = federation
    first, second = (
        (running.folder / f"{name}.log").read_text(encoding="utf-8")
        for name in ("register", "register-again")
    )
    assert first.count("registered successfully") == len(SITES)
    assert second.splitlines() == [f"{service}.pub: known already" for service in sorted(SITES)]


def services() -> dict[str, dict[str, Any]]:
    return read_services(COMPOSE, {})


def mounts(service: str) -> dict[str, tuple[str, bool]]:
    """Return a service's mounts as target to (source, writable)."""
    found = {}
    for mount in services()[service].get("volumes", ()):
        source, target, *mode = mount.split(":")
        found[target] = (source, mode != ["ro"])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_container_is_held_down(path: Path) -> None:
    for name, spec in read_services(path, {}).items():
        assert spec["read_only"] is True, name
        assert spec["cap_drop"] == ["ALL"], name
        assert spec["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "devices", "pid", "ipc", "user"} & set(spec), name
        assert spec.get("network_mode") != "host", name
        assert not any("--insecure" in word for word in spec["command"]), name


def test_the_image_is_called_by_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for path in FILES:
        images = {spec["image"] for spec in read_services(path, {}).values()}
        assert images == {f"rate-my-lora:{project['version']}"}


def test_the_image_runs_without_privileges() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER app"


def test_home_is_where_every_container_may_write() -> None:
    assert "ENV HOME=/tmp" in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    for path in FILES:
        for name, spec in read_services(path, {}).items():
            assert spec["tmpfs"] == ["/tmp"], name  # noqa: S108


@pytest.mark.parametrize("service", SITES)
def test_a_site_sees_its_own_volumes_and_writes_its_state_alone(service: str) -> None:
    assert mounts(service) == {"/site": (service, False), "/state": (f"{service}-state", True)}


def test_only_the_setup_sees_the_authoritys_key_and_all_sites() -> None:
    for name in services():
        sources = {source for source, _ in mounts(name).values()}
        assert ("setup" in sources) == (name == "setup"), name
        assert name == "setup" or len(sources & set(SITES)) <= 1, name


def test_the_sites_have_no_way_out_and_nothing_listens_on_the_host() -> None:
    networks = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["networks"]
    assert networks == {"fleet": {"internal": True}}
    for name, spec in services().items():
        assert "ports" not in spec, name
        assert spec.get("networks", ["fleet"]) == ["fleet"], name


def test_only_the_coordinators_containers_reach_the_control_port() -> None:
    command = services()["superlink"]["command"]
    assert {"--host=127.0.0.1", "--port=9093"} <= set(command)
    sharing = {
        name for name, spec in services().items() if spec.get("network_mode") == "service:superlink"
    }
    assert sharing == {"register", "run"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_docker_compose_accepts_the_file(path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    done = subprocess.run(
        [program, "-f", str(path), "config", "-q"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
