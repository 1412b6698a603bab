"""The coordinator's SuperLink: its options, what it is started with, and its database."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.flower_private import link_state
from cli.main import app
from common.flower_environment import SETTINGS, UNREGISTERED

OLD = Path(__file__).with_name("link-1.26.sql")
THREADS = 8
OPTIONS = ["--insecure", "--database", "link.db", "--fleet-api-address=0.0.0.0:9092"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return a dict that gets the program, command line and environment of the SuperLink."""
    found: dict[str, object] = {}

    def become(program: str, words: list[str], environment: dict[str, str]) -> None:
        found.update(program=program, words=words, environment=environment)

    monkeypatch.setattr(os, "execve", become)
    for name in (*SETTINGS, "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin")
    return found


def test_the_options_are_flowers(started: dict[str, object]) -> None:
    assert CliRunner().invoke(app, ["superlink", *OPTIONS]).exit_code == 0
    program = str(Path(sys.executable).parent / "flower-superlink")
    assert Path(program).is_file()
    assert (started["program"], started["words"]) == (program, [program, *OPTIONS])


def test_nothing_is_installed_and_nobody_told(started: dict[str, object]) -> None:
    CliRunner().invoke(app, ["superlink"])
    assert SETTINGS.items() <= started["environment"].items()  # type: ignore[attr-defined]
    assert SETTINGS["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] == "1"


@pytest.mark.parametrize("registers", [True, False])
def test_a_run_is_told_whether_its_sites_are_registered(
    started: dict[str, object], registers: bool
) -> None:
    words = ["--enable-supernode-auth"] if registers else ["--insecure"]
    CliRunner().invoke(app, ["superlink", *words])
    assert (UNREGISTERED in started["environment"]) != registers  # type: ignore[operator]


def test_helpers_are_found_and_no_proxy_comes_between(
    started: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "hospital.example.org")
    CliRunner().invoke(app, ["superlink"])
    environment = dict(started["environment"])  # type: ignore[call-overload]
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert environment["NO_PROXY"] == "hospital.example.org,127.0.0.1,localhost"


def test_flower_says_what_is_wrong_with_an_option() -> None:
    words = [str(Path(sys.executable).parent / "rate-my-lora"), "superlink", "--no-such-option"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_database_of_flower_1_26_keeps_its_registered_keys_and_runs(tmp_path: Path) -> None:
    database = tmp_path / "link.db"
    with closing(sqlite3.connect(database)) as old:
        old.executescript(OLD.read_text("utf-8"))
        keys = {row[0] for row in old.execute("SELECT public_key FROM node")}
        (version,) = next(old.execute("SELECT version_num FROM alembic_version"))
    assert len(keys) == 3
    with link_state(database) as factory:
        state = factory.state()
        assert {node.public_key for node in state.get_node_info()} == keys
        for node in state.get_node_info():
            assert state.get_node_id_by_public_key(node.public_key) == node.node_id
        (run,) = state.get_run_info()
        assert (run.fab_version, run.status.sub_status) == ("0.1.0", "failed")
    with closing(sqlite3.connect(database)) as new:
        assert next(new.execute("SELECT version_num FROM alembic_version")) != (version,)


def test_many_may_open_a_superlinks_database_at_once(tmp_path: Path) -> None:
    for number in range(3):
        together = Barrier(THREADS)
        with (
            link_state(tmp_path / f"{number}.db") as factory,
            ThreadPoolExecutor(THREADS) as threads,
        ):

            def first_request(
                _: int, factory: Any = factory, together: Barrier = together
            ) -> object:
                together.wait(30)
                return factory.state().get_run_info()

            assert list(threads.map(first_request, range(THREADS))) == [[]] * THREADS
