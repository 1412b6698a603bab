"""The SuperLink's database with many first requests at once, and its options."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from flwr.supercore import sql_mixin
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.alembic.utils import run_migrations
from typer.testing import CliRunner

from cli import superlink
from cli.main import app

THREADS = 8


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that gets the command line of each SuperLink instead of starting it."""
    lines: list[list[str]] = []
    monkeypatch.setattr(sys, "argv", ["rate-my-lora"])
    monkeypatch.setattr(sql_mixin, "run_migrations", run_migrations)
    monkeypatch.setattr(superlink, "run_superlink", lambda: lines.append(sys.argv[1:]))
    return lines


def test_many_may_open_a_superlinks_database_at_once(
    started: list[list[str]], tmp_path: Path
) -> None:
    assert CliRunner().invoke(app, ["superlink"]).exit_code == 0
    together = Barrier(THREADS)

    def first_request(database: Path) -> list[str]:
        together.wait(30)
        return SqlObjectStore(str(database)).initialize()

    for number in range(3):
        with ThreadPoolExecutor(THREADS) as threads:
            tables = list(threads.map(first_request, [tmp_path / f"{number}.db"] * THREADS))
        assert "run" in tables[0]
        assert tables == [tables[0]] * THREADS


def test_the_options_are_flowers(started: list[list[str]]) -> None:
    options = ["--insecure", "--database", "link.db", "--fleet-api-address=0.0.0.0:9092"]
    assert CliRunner().invoke(app, ["superlink", *options]).exit_code == 0
    assert started == [options]


def test_flower_says_what_is_wrong_with_an_option() -> None:
    words = [str(Path(sys.executable).parent / "rate-my-lora"), "superlink", "--no-such-option"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unrecognized arguments: --no-such-option" in done.stderr
    assert "Traceback" not in done.stderr
