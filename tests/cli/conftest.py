"""Fixtures for the tests of the commands."""

import sys

import pytest

from cli import main as commands
from tests.cli.running import Ended, Run


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs a command in this process."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["rate-my-lora", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            commands.main()
        status = end.value.code or 0
        assert isinstance(status, int)
        return Ended(status, *capfd.readouterr())

    return run
