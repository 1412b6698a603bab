"""A federation waits for a hospital that approves the run later, over a restart of the server."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.flower_environment import SCRIPTS
from common.messages import NOT_APPROVED
from server_app.status import Status, read_status
from tests.network.world import Federation, federation, refusals, took_part
from tests.test_simulation import small_run

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

ASKED, ANYONE = "GE", "Philips"


@dataclass
class Story:
    """What happened."""

    before: list[dict[str, Any]]
    """The audit log of the hospital when it approved the run."""
    statuses: list[Status]
    """The run's status while it waited: before the server was killed, and after."""
    history: list[dict[str, Any]]


@pytest.fixture(scope="module")
def story(site_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Play it."""
    folder = tmp_path_factory.mktemp("approval")
    run_dir = folder / "run"
    config = small_run(site_data, run_dir, rounds=1, sites=2, resume=True)
    del config["data-dir"]
    with federation(folder / "processes") as hospitals:
        base = site_data / "base.safetensors"
        hospitals.join(ASKED, site_data / "mnms2", base, approve="ask")
        hospitals.join(ANYONE, site_data / "mnms2", base, approve="any")
        statuses: list[Status] = []
        for again in (False, True):
            hospitals.start_run(config)
            statuses.append(wait_for_waiting(hospitals, run_dir, statuses))
            if not again:
                os.kill(statuses[0].pid, signal.SIGKILL)
        before = hospitals.audited(ASKED)
        (code,) = set(re.findall(r"approve ([0-9a-f]{16})\b", hospitals.running.log(ASKED)))
        file = hospitals.folder / f"{ASKED}.toml"
        command = [SCRIPTS / "rate-my-lora", "approve", code, "--site-file", file]
        subprocess.run(command, check=True, capture_output=True)
        yield Story(before, statuses, hospitals.wait_for_end(run_dir))


def wait_for_waiting(hospitals: Federation, run_dir: Path, before: list[Status]) -> Status:
    """Wait until a run, other than those before, says whom it waits for; return its status."""
    found: list[Status] = []

    def waits() -> bool:
        status = read_status(run_dir / "status.json")
        if status and status.waiting and status.pid not in [one.pid for one in before]:
            found.append(status)
        return bool(found)

    hospitals.wait(waits, "the wait for approval")
    return found[0]


def test_the_server_says_whom_it_waits_for_and_keeps_the_run_that_they_approve(
    story: Story,
) -> None:
    first, second = story.statuses
    assert first.waiting == second.waiting == (ASKED,)
    assert first.run == second.run != ""
    assert (first.phase, second.phase) == ("gather", "gather")


def test_until_then_nothing_leaves_but_one_sentence(story: Story) -> None:
    left = [line for line in story.before if line["direction"] == "out"]
    assert left
    for line in left:
        assert line["config"]["config"]["error"] == NOT_APPROVED
        assert set(line["config"]["config"]) <= {"error", "site", "audit"}
        assert not line["metrics"]
        assert not line["arrays"]


def test_the_run_then_takes_the_hospital_in(story: Story) -> None:
    assert [took_part(line) for line in story.history] == [set(), {ASKED, ANYONE}]
    assert refusals(story.history[0], ASKED) == {"join": NOT_APPROVED}
