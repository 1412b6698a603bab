"""``flower-simulation`` as a command: its options, and what Ray is told."""

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli import simulation
from common.errors import UserError
from common.flower_environment import SCRIPTS, UNREGISTERED
from common.flower_private import EngineError
from server_app import ray_engine
from server_app.ray_engine import AGENTS, ENVIRONMENT, LISTEN, RayWatch, ended_process, prepare_ray
from tests.test_layers import ROOT

FORMER = (
    "--app", "--num-supernodes", "--run-config", "--backend", "--backend-config",
    "--enable-tf-gpu-growth", "--verbose", "--flwr-dir", "--run-id",
)  # fmt: skip
"""The options of Flower's own command up to 1.26."""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Return what the engine would be run with."""
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def run(*args: Any, **keys: Any) -> None:
        found.append((args, keys))

    monkeypatch.setenv(UNREGISTERED, "")
    monkeypatch.setattr(simulation, "run_simulation", run)
    monkeypatch.setattr(simulation, "prepare_ray", lambda: None)
    monkeypatch.setattr(RayWatch, "watch", lambda _: None)  # it would end this process
    return found


def invoke(*words: str) -> Any:
    return CliRunner().invoke(_typer(), words)


def test_the_options_are_those_that_flower_had(runs: list[Any]) -> None:
    command = typer.main.get_command(_typer())
    assert {word for option in command.params for word in option.opts} >= set(FORMER)
    words = ["--app", str(ROOT), "--num-supernodes", "3", "--run-config", "rounds=2 preset='flora'"]
    words += ["--backend-config", '{"client_resources": {"num_cpus": 1}}', "--run-id", "7"]
    assert invoke(*words, "--verbose", "--backend", "ray").exit_code == 0
    ((args, keys),) = runs
    assert args == (
        ROOT, 3, {"rounds": 2, "preset": "flora"}, "ray", {"client_resources": {"num_cpus": 1}},
    )  # fmt: skip
    assert (keys["run_id"], keys["verbose"], keys["tf_gpu_growth"]) == (7, True, False)
    assert os.environ[UNREGISTERED] == "1"  # no site has a key that stays


def _typer() -> typer.Typer:
    app = typer.Typer()
    app.command()(simulation.simulate)
    return app


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--app", "/nowhere", "--num-supernodes", "3"], "found no pyproject.toml in /nowhere"),
        (["--app", str(ROOT), "--num-supernodes", "3", "--backend-config", "{"], "not JSON"),
        (["--app", str(ROOT), "--num-supernodes", "3", "--backend-config", "[]"], "found []"),
    ],
)
def test_a_mistake_is_named(runs: list[Any], words: list[str], says: str) -> None:
    result = invoke(*words)
    assert isinstance(result.exception, UserError)
    assert says in str(result.exception)
    assert runs == []


def test_an_engine_that_fails_is_a_sentence(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[Any] = []

    def fail(*_: Any, check: Any, **__: Any) -> None:
        checks.append(check)
        raise EngineError("no resources")

    monkeypatch.setattr(simulation, "run_simulation", fail)
    result = invoke("--app", str(ROOT), "--num-supernodes", "3")
    assert str(result.exception) == "the simulation's engine failed: no resources"
    with pytest.raises(UserError, match="no resources"):  # the ServerApp ends with it
        checks[0]()


def test_the_watch_notices_a_raylet_that_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    dead: list[tuple[str, None]] = [("monitor", None)]
    node = SimpleNamespace(dead_processes=lambda: dead)
    monkeypatch.setitem(sys.modules, "ray._private.worker", SimpleNamespace(_global_node=node))
    watch = RayWatch()
    watch.check()
    dead.append(("raylet", None))
    assert ended_process() == "raylet"
    with pytest.raises(UserError, match="Ray ended: its raylet is gone"):
        watch.check()


def test_a_run_that_is_over_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower ends Ray's processes then."""
    monkeypatch.setattr(ray_engine, "LOOK_S", 0.0)
    monkeypatch.setattr(ray_engine, "ended_process", lambda: "")
    watch = RayWatch()
    server = threading.Thread(target=watch.check)
    server.start()
    server.join()
    watch.watch()
    assert watch.failure == ""


def test_ray_is_given_its_agents_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import parameter, services  # noqa: PLC0415  (slow)

    started: list[list[str]] = []
    monkeypatch.setattr(
        services, "start_ray_process", lambda command, *_, **__: started.append(command)
    )
    monkeypatch.setattr(parameter, "RayParams", dict)
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_worker_niceness", "3")
    prepare_ray()
    made = dict(parameter.RayParams(metrics_export_port=None, num_cpus=2))  # type: ignore[call-overload]
    assert made["num_cpus"] == 2
    ports = [made[name] for name in AGENTS]
    assert len(set(ports)) == len(AGENTS)
    assert all(isinstance(port, int) and port >= 1024 for port in ports)
    services.start_ray_process(["raylet"], "raylet", fate_share=True)
    services.start_ray_process(["gcs"], "gcs_server", fate_share=True)
    assert started == [["raylet", f"--{LISTEN}={made[LISTEN]}"], ["gcs"]]
    assert {**ENVIRONMENT, "RAY_worker_niceness": "3"}.items() <= os.environ.items()
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)


def test_it_is_installed() -> None:
    program = str(SCRIPTS / "flower-simulation")
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Simulate a federation" in done.stdout
