"""The hospital of the attacks, and the line that `make attacks` prints for each of them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from _pytest.terminal import TerminalReporter

from strategies import roster
from tests.attacks.kit import Hospital, write_hospital

OUTCOMES = {"passed": "withstood", "xfailed": "open", "failed": "VULNERABLE", "error": "BROKEN"}
FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the hospital's patients and base model; tests leave it as it is."""
    return write_hospital(tmp_path_factory.mktemp("hospital"))


@pytest.fixture
def hospital(patients: Path, tmp_path: Path) -> Hospital:
    """Return the hospital with an empty cache and audit log."""
    return Hospital(patients, tmp_path)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Make the coordinator's waiting for sites take no time."""
    fake = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        fake.now += seconds

    monkeypatch.setattr(roster, "time", SimpleNamespace(monotonic=lambda: fake.now, sleep=sleep))
    return fake


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep with the test what it says it does."""
    text = getattr(item, "function", item).__doc__
    assert text, f"{item.nodeid} does not say which attack it is"
    item.user_properties.append(("attack", text.strip().splitlines()[0]))


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """Print the outcome of each attack, where only attacks were run."""
    if [Path(arg).resolve() for arg in terminalreporter.config.args] != [FOLDER]:
        return
    terminalreporter.section("attacks")
    for outcome, word in OUTCOMES.items():
        for report in terminalreporter.stats.get(outcome, []):
            text = dict(report.user_properties).get("attack", "")
            _, bracket, case = report.nodeid.partition("[")
            terminalreporter.write_line(f"{word:11s}{text} {bracket}{case}")
