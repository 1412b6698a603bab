"""Hospitals that are killed, paused, cut off or unwilling, while the others go on.

One run of real processes serves all tests here. In round 1

    Killed   ends without a word while it trains, and is started again
    Lost     ends without a word after its adapter has arrived, and is started again
    Paused   stands still for more than a minute, as a machine that sleeps, and goes on
    Cut off  sits behind a slow link, which is cut in the middle of its upload and mended
    Limited  trains for fewer epochs than the run asks for, and does not validate

and two others notice nothing but the time. The last round shows who is back.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.federation import LOOPBACK
from benchmarks.namespaces import Link, NotPermittedError, namespace
from common.adapter import load_adapter
from common.options import Value
from server_app.status import read_status
from tests.network.world import Federation, copy_site, federation, refusals, took_part
from tests.test_simulation import read_history, small_run

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

STEADY = {"Anna", "Bethesda"}
FRAGILE = {"Killed", "Lost", "Paused"}
CUT = "Cut off"
MENDED = "the link of the site that is cut off"
SITES = STEADY | FRAGILE | {CUT, "Limited"}
ROUNDS = 5
EPOCHS = 15
ROUND_TIMEOUT_S = 50
SLEEP_S = 65.0
"""Longer than the minute after which a SuperNode gives up on its app."""
CUT_S = 5.0
LINK = Link(f"rml-{os.getpid()}", f"10.78.{os.getpid() % 256}.1", f"10.78.{os.getpid() % 256}.2")


@dataclass
class Story:
    """What happened."""

    federation: Federation
    run_dir: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    no_link: str = ""
    """Why no link could be made; empty if one was."""
    paused_at: float = 0.0
    cut_at: float = 0.0
    after_the_cut: str = ""
    """Last log line of the site behind the cut link, when the link was restored."""


@pytest.fixture(scope="module")
def story(site_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Play it."""
    folder = tmp_path_factory.mktemp("site-faults")
    with ExitStack() as stack:
        no_link = ""
        try:
            stack.enter_context(namespace(LINK))
            LINK.shape(mbit_up=0.128, mbit_down=4)  # an upload takes seconds
        except NotPermittedError as error:
            no_link = str(error)
        hospitals = stack.enter_context(federation(folder / "processes", LINK.host))
        story = Story(hospitals, folder / "run", no_link=no_link)
        base = site_data / "base.safetensors"
        for site in sorted(SITES):
            place: dict[str, str] = {}
            if site == CUT and not no_link:
                place = {"host": LINK.host, "namespace": LINK.name}
            limits: dict[str, Value] = {}
            if site == "Limited":
                limits = {"max_local_epochs": EPOCHS - 1, "serves": "train,test"}
            data = copy_site(site_data, folder, site)
            hospitals.join(site, data, base, **place, **limits)  # type: ignore[arg-type]
        play(story, site_data)
        story.history = hospitals.wait_for_end(story.run_dir)
        yield story


def play(story: Story, site_data: Path) -> None:
    """Start the run and cause each fault at its time."""
    hospitals = story.federation
    config = small_run(site_data, story.run_dir, rounds=ROUNDS, ranks="equal")
    del config["data-dir"]
    config |= {
        "sites": len(SITES),
        "min-sites": 2,
        "local-epochs": EPOCHS,
        "round-timeout-s": ROUND_TIMEOUT_S,
        "keep-updates": "all",
    }
    hospitals.start_run(config)
    left = {"Killed", "Lost", "Paused", CUT, MENDED}
    hospitals.wait(lambda: stands(story, 1, "train"), "round 1")
    while left:
        hospitals.wait(lambda: any(due(story, site) for site in left), f"the turn of {left}")
        for site in sorted(left):
            if due(story, site):
                left.remove(site)
                strike(story, site)
    hospitals.wait(lambda: stands(story, 1, "validate"), "the validation of round 1")
    hospitals.rejoin("Killed")
    hospitals.wait(lambda: stands(story, 2, "train"), "round 2")
    hospitals.rejoin("Lost")  # before, it would answer the validation that waits for its node
    hospitals.wait(lambda: time.monotonic() > story.paused_at + SLEEP_S, "a long sleep")
    hospitals.running.signal("Paused", signal.SIGCONT)


def stands(story: Story, server_round: int, phase: str) -> bool:
    """Tell whether the run has reached a point."""
    status = read_status(story.run_dir / "status.json")
    order = ("gather", "rate base", "train", "validate", "test")
    return status is not None and (
        status.round > server_round
        or (status.round == server_round and order.index(status.phase) >= order.index(phase))
    )


def due(story: Story, site: str) -> bool:
    """Tell whether a site has reached the point of its fault."""
    hospitals = story.federation
    if site == "Lost":
        sent = hospitals.running.log(site).rpartition("Sending: train message")
        return bool(sent[1]) and "Sent successfully" in sent[2]
    if site == CUT:
        return "Sending: train message" in hospitals.running.log(site)
    if site == MENDED:  # the length of the outage is what is tested
        return 0 < story.cut_at < time.monotonic() - CUT_S
    return hospitals.handled(site, "train", 1, "in")


def strike(story: Story, site: str) -> None:
    running = story.federation.running
    if site == CUT:
        story.cut_at = time.monotonic()
        if not story.no_link:
            LINK.cut()
    elif site == MENDED:
        if not story.no_link:
            story.after_the_cut = running.log(CUT).rpartition("INFO")[2]
            LINK.restore()
    elif site == "Paused":
        running.signal(site, signal.SIGSTOP)
        story.paused_at = time.monotonic()
    else:
        running.kill(site)


def test_the_others_go_on(story: Story) -> None:
    assert [line["round"] for line in story.history] == list(range(ROUNDS + 1))
    for line in story.history[1:]:
        for site in STEADY:
            entry = line["sites"][site]
            assert refusals(line, site) == {}
            assert entry["penalty"] > 0
            assert 0 < entry["validation"] < 1


def test_who_takes_part_has_an_equal_share(story: Story) -> None:
    for line in story.history[1:]:
        sites = took_part(line)
        assert sites >= STEADY
        for site in sites:
            assert line["sites"][site]["share"] == pytest.approx(1 / len(sites))
        updates = story.run_dir / "updates" / f"round-{line['round']:03d}"
        assert {path.stem.replace("%20", " ") for path in updates.iterdir()} == sites


def test_the_result_is_whole(story: Story) -> None:
    for name in ("checkpoint", "adapter"):
        adapter, _ = load_adapter(story.run_dir / f"{name}.safetensors")
        assert all(torch.isfinite(value).all() for value in adapter.tensors().values())


def test_a_site_killed_in_training_is_named_and_left_out(story: Story) -> None:
    line = story.history[1]
    assert "Killed" not in took_part(line)
    # Where the SuperLink has missed its heartbeat by then, it is not asked to validate at all.
    assert {"train"} <= set(refusals(line, "Killed")) <= {"train", "validate"}


def test_a_site_killed_before_it_validates_keeps_weight_one(story: Story) -> None:
    line = story.history[1]
    assert line["sites"]["Lost"]["penalty"] == 1.0
    assert "validation" not in line["sites"]["Lost"]
    assert set(refusals(line, "Lost")) <= {"validate"}  # none where it was known as gone


def test_a_paused_site_is_not_waited_for_longer_than_agreed(story: Story) -> None:
    line = story.history[1]
    assert "train" in refusals(line, "Paused")
    assert "Paused" not in took_part(line)
    assert line["seconds"]["train"] < ROUND_TIMEOUT_S + 20
    assert ROUND_TIMEOUT_S < SLEEP_S


@pytest.mark.parametrize("site", sorted(FRAGILE))
def test_a_site_that_is_back_takes_part_again_under_its_key(story: Story, site: str) -> None:
    last = story.history[-1]
    assert site in took_part(last)
    assert refusals(last, site) == {}
    nodes = {
        line.rpartition(" ")[2]
        for line in story.federation.running.log(site).splitlines()
        if "SuperNode ID" in line
    }
    assert len(nodes) == 1


def test_a_machine_that_slept_is_still_running(story: Story) -> None:
    assert "no longer waits for this answer" in story.federation.running.log("Paused")
    assert "Paused" not in story.federation.running.dead()


def test_an_upload_that_was_cut_arrives_in_the_same_round(story: Story) -> None:
    if story.no_link:
        pytest.skip(story.no_link)
    assert "Sending: train message" in story.after_the_cut
    for line in story.history[1:]:
        assert refusals(line, CUT) == {}
        assert CUT in took_part(line)


def test_a_site_keeps_to_its_own_limits(story: Story) -> None:
    for line in story.history[1:]:
        assert refusals(line, "Limited") == {
            "train": f"{EPOCHS} epochs are asked, this site allows {EPOCHS - 1}",
            "validate": "this site does not serve validate",
        }


def test_a_site_sends_nothing_after_its_end(story: Story) -> None:
    history = read_history(story.run_dir)
    assert history[1]["sites"]["Killed"]["bytes_up"] == 0
    assert history[1]["sites"]["Lost"]["bytes_up"] > 0
    assert LOOPBACK in story.federation.superlink()
