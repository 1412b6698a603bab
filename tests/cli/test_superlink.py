"""The coordinator's SuperLink: its options, and what it is started with."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from common.flower_environment import SETTINGS

OPTIONS = ["--insecure", "--database", "link.db", "--fleet-api-address=0.0.0.0:9092"]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Return the program that this process would become, its command line and environment."""
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
