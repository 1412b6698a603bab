"""Three hospitals over TLS with registered keys, as the deployment guide has it.

One federation serves all tests here: the run itself; who is kept out by Flower's keys and who by
the app, while the run goes on; and then the server's own ends, each followed by ``resume = true``.
"""

import os
import signal
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest
import torch

from benchmarks.federation import LOOPBACK, Tls, start_superlink
from benchmarks.processes import family, free_ports
from benchmarks.relay import relay
from common.adapter import load_adapter
from common.messages import CANNOT
from common.model import build_unet, save_base
from common.options import Value
from server_app.status import read_status
from tests.conftest import SITE_FEATURES
from tests.network.world import Federation, copy_site, federation, refusals, took_part
from tests.test_simulation import read_history, small_run

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(900)]

SITES = ("GE", "Philips", "Siemens")
TURNED_AWAY = ("Other base", "Other version", "Full disk")
ROUNDS = 2
REGISTERED = len(SITES) + len(TURNED_AWAY)
VERSION = metadata.version("rate-my-lora")
OTHER_VERSION = """
from importlib import metadata
found = metadata.version
metadata.version = lambda name: "9.9.9" if name == "rate-my-lora" else found(name)
"""


@dataclass
class Story:
    """What happened: the folders of the runs and what was seen on the way."""

    federation: Federation
    data: Path
    whole: Path
    broken: Path
    intruders: dict[str, str] = field(default_factory=dict)
    """Log of each SuperNode that must not get in."""
    streams: list[bytearray] = field(default_factory=list)
    """Bytes between one site and the SuperLink: two streams for each connection."""
    details: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Status of a run whose server ended, as Flower shows it."""


@pytest.fixture(scope="module")
def story(site_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """Play it."""
    folder = tmp_path_factory.mktemp("tls")
    with federation(folder / "processes") as hospitals, ExitStack() as stack:
        story = Story(hospitals, site_data, folder / "whole", folder / "broken")
        (tapped,) = free_ports(1)
        stack.enter_context(
            relay((LOOPBACK, tapped), (LOOPBACK, hospitals.ports[0]), streams=story.streams)
        )
        start_sites(hospitals, site_data, folder, tapped)
        expired = start_expired_superlink(hospitals)
        hospitals.start_run(configuration(story, story.whole, sites=REGISTERED, min_sites=3))
        hospitals.wait((story.whole / "history.jsonl").is_file, "the rating of the base")
        start_intruders(hospitals, expired)
        assert hospitals.running.running["run"].poll() is None
        hospitals.wait_for_end(story.whole)
        story.intruders = {name: hospitals.running.log(name) for name in INTRUDERS}
        hospitals.leave(*TURNED_AWAY)
        for name in INTRUDERS:
            hospitals.running.kill(name)
        break_and_resume(story)
        run_another_version(story, folder / "other-version")
        yield story


def configuration(story: Story, run_dir: Path, **keys: Value) -> dict[str, Value]:
    flat = small_run(story.data, run_dir, rounds=ROUNDS, **keys)
    del flat["data-dir"]
    return flat


def start_sites(hospitals: Federation, site_data: Path, folder: Path, tapped: int) -> None:
    base = site_data / "base.safetensors"
    for site in SITES:
        address = f"{LOOPBACK}:{tapped}" if site == SITES[-1] else hospitals.superlink()
        hospitals.join(site, site_data / "mnms2", base, superlink=address)
    other_base = folder / "other.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_base(build_unet(SITE_FEATURES), other_base)
    (folder / "sitecustomize.py").write_text(OTHER_VERSION, encoding="utf-8")
    data = {name: copy_site(site_data, folder, name) for name in TURNED_AWAY}
    hospitals.join("Other base", data["Other base"], other_base)
    hospitals.join(
        "Other version", data["Other version"], base, environment={"PYTHONPATH": str(folder)}
    )
    hospitals.join("Full disk", data["Full disk"], base, audit_log="/dev/full")


NOT_LET_IN = "[code: 2004] Failed to activate SuperNode."
INTRUDERS = {
    "unregistered": NOT_LET_IN,
    "withdrawn": NOT_LET_IN,
    "copied key": NOT_LET_IN,
    "plain text": "Connection attempt failed",
    "other authority": "handshake failed",
    "expired server": "CERTIFICATE_VERIFY_FAILED",
}
"""Words in the log of each SuperNode that must not get in."""


def start_expired_superlink(hospitals: Federation) -> str:
    """Start a SuperLink whose certificate is no longer valid; return its address."""
    expired = Tls.create(hospitals.folder / "expired", days=0)
    ports = start_superlink(hospitals.running, LOOPBACK, tls=expired, name="expired-superlink")
    return f"{LOOPBACK}:{ports[0]}"


def start_intruders(hospitals: Federation, expired: str) -> None:
    """Start SuperNodes that must not get in, and two that must not trust the SuperLink."""
    withdrawn = hospitals.key("withdrawn")
    hospitals.unregister(hospitals.register(withdrawn))
    stranger = hospitals.key("unregistered")
    other = Tls.create(hospitals.folder / "other-authority")

    def trust(tls: Tls, key: Path) -> list[str]:
        return ["--root-certificates", str(tls.root), "--auth-supernode-private-key", str(key)]

    here = hospitals.superlink()
    commands = {
        "unregistered": [here, *trust(hospitals.tls, stranger)],
        "withdrawn": [here, *trust(hospitals.tls, withdrawn)],
        "copied key": [here, *trust(hospitals.tls, hospitals.folder / f"{SITES[0]}.key")],
        "plain text": [here, "--insecure"],
        "other authority": [here, *trust(other, stranger)],
        "expired server": [expired, *trust(Tls(hospitals.folder / "expired"), stranger)],
    }
    for name, words in commands.items():
        (port,) = free_ports(1)
        local = ["--isolation", "process", "--host", LOOPBACK, "--port", str(port)]
        hospitals.running.start(name, ["flower-supernode", *local, "--superlink", *words])

    def refused() -> bool:
        return all(says in hospitals.running.log(name) for name, says in INTRUDERS.items())

    hospitals.wait(refused, "the end of every attempt to get in")


def break_and_resume(story: Story) -> None:
    """Kill the ServerApp in round 2, resume, kill the SuperLink in round 2, resume to the end."""
    hospitals, run_dir = story.federation, story.broken

    def in_round_two() -> bool:
        status = read_status(run_dir / "status.json")
        return status is not None and (status.round, status.phase) == (ROUNDS, "train")

    hospitals.start_run(configuration(story, run_dir))
    hospitals.wait(in_round_two, "round 2")
    hospitals.wait(lambda: came_to_train(story, 2), "training in round 2")
    status = read_status(run_dir / "status.json")
    assert status is not None
    assert status.pid in family(hospitals.running.running["superlink"].pid)
    os.kill(status.pid, signal.SIGKILL)

    hospitals.start_run(configuration(story, run_dir, resume=True))
    hospitals.wait(lambda: came_to_train(story, 3), "training in round 2 once more")
    hospitals.running.kill("superlink")  # with all that it started: the server lost its power
    hospitals.restart_superlink()

    hospitals.start_run(configuration(story, run_dir, resume=True))
    hospitals.wait_for_end(run_dir)


def run_another_version(story: Story, run_dir: Path) -> None:
    """Run a version that no site has, then wait until Flower has given up the runs that died."""
    hospitals = story.federation
    project = hospitals.app / "pyproject.toml"
    text = project.read_text("utf-8")
    project.write_text(text.replace(f'version = "{VERSION}"', 'version = "9.9.9"'), "utf-8")
    hospitals.start_run(configuration(story, run_dir))
    run = hospitals.running.running["run"]
    hospitals.wait(lambda: run.poll() is not None, "the end of a run that nobody joins")

    def settled() -> bool:
        return all(sub_status for sub_status, _ in hospitals.run_details())

    hospitals.wait(settled, "Flower's word on every run")
    names = ("whole", "ServerApp", "SuperLink", "resumed", "other version")
    story.details = dict(zip(names, hospitals.run_details(), strict=True))


def came_to_train(story: Story, times: int) -> bool:
    """Tell whether all sites got the last round's training request that many times in all."""
    return all(
        sum(
            (line["kind"], line["round"], line["direction"]) == ("train", ROUNDS, "in")
            for line in story.federation.audited(site)
        )
        >= times
        for site in SITES
    )


def same_adapter(one: Path, other: Path) -> bool:
    left, right = (load_adapter(run / "adapter.safetensors")[0].tensors() for run in (one, other))
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_over_tls_the_adapter_is_that_of_the_simulation(story: Story, simulated: Path) -> None:
    expected, _ = load_adapter(simulated / "adapter.safetensors")
    found, _ = load_adapter(story.whole / "adapter.safetensors")
    for name, value in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], value, msg=name)
    for real, line in zip(read_history(story.whole), read_history(simulated), strict=True):
        for site in SITES:
            for key in ("rank", "penalty", "bytes_up", "bytes_down"):
                assert real["sites"][site].get(key) == line["sites"][site].get(key)


def test_every_byte_is_in_the_sites_own_log(story: Story) -> None:
    history = read_history(story.whole)
    for site in SITES:
        lines = story.federation.audited(site)
        run = lines[0]["run"]
        logged: dict[tuple[int, str], int] = defaultdict(int)
        for line in lines:
            assert line["verdict"] == "passed"
            if line["run"] == run and line["kind"] != "evaluate.test":
                logged[line["round"], line["direction"]] += line["payload_bytes"]
        for line in history:
            entry, number = line["sites"][site], line["round"]
            assert logged[number, "in"] == entry["bytes_down"]
            assert logged[number, "out"] == entry["bytes_up"]
        assert logged[1, "out"] > 0


@pytest.mark.parametrize("name", INTRUDERS)
def test_who_has_no_key_or_no_trust_does_not_get_in(story: Story, name: str) -> None:
    assert INTRUDERS[name] in story.intruders[name]
    assert "SuperNode ID" not in story.intruders[name]


def test_the_superlink_knows_why(story: Story) -> None:
    said = story.federation.running.log("superlink")
    assert said.count("No SuperNode found with the given public key") == 2
    assert said.count("could not be activated") == 1


def test_the_run_does_not_notice_who_is_kept_out(story: Story) -> None:
    history = read_history(story.whole)
    named = {one["site"] for line in history for one in line["refused"]}
    assert len(named) == len(TURNED_AWAY)
    assert story.federation.running.log("superlink").count("Activated node_id") >= REGISTERED
    for line in history[1:]:
        assert took_part(line) == set(SITES)
        assert line["refused"] == []


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("Other base", "SHA-256"),
        ("Other version", "this site has version 9.9.9"),
        ("Full disk", "/dev/full: cannot be written"),
    ],
)
def test_a_site_that_does_not_fit_says_why_in_its_own_log(
    story: Story, site: str, says: str
) -> None:
    assert says in story.federation.running.log(site)


def test_a_site_that_does_not_fit_is_turned_away_before_round_1(story: Story) -> None:
    joins = [one for one in read_history(story.whole)[0]["refused"] if one["phase"] == "join"]
    other = f"the run is of version {VERSION}, this site has version 9.9.9"
    assert sorted(one["reason"] for one in joins) == sorted([CANNOT, CANNOT, other])


def test_after_both_ends_of_the_server_the_adapter_is_that_of_the_whole_run(story: Story) -> None:
    assert same_adapter(story.broken, story.whole)
    left, right = read_history(story.broken), read_history(story.whole)
    assert [line["round"] for line in left] == list(range(ROUNDS + 1))
    for one, other in zip(left, right, strict=True):
        for site in SITES:
            for key in ("validation", "penalty", "rank", "bytes_up", "bytes_down"):
                assert one["sites"][site].get(key) == other["sites"][site].get(key)


def test_a_resumed_run_leaves_nobody_out(story: Story) -> None:
    for line in read_history(story.broken):
        assert all(refusals(line, site) == {} for site in SITES)


def test_flower_knows_which_runs_ended_well(story: Story) -> None:
    assert story.details["whole"][0] == story.details["resumed"][0] == "completed"


@pytest.mark.parametrize("process", ["ServerApp", "SuperLink"])
def test_flower_gives_up_a_run_whose_server_died(story: Story, process: str) -> None:
    assert story.details[process] == ("failed", "No heartbeat received from the task")


def test_a_run_of_a_version_that_no_site_has_ends_with_that_sentence(story: Story) -> None:
    status, details = story.details["other version"]
    assert status == "failed"
    assert "0 site(s) can take part, expected at least min-sites = 2" in details
    assert f"the run is of version 9.9.9, this site has version {VERSION}" in details


HEADER, MOST_IN_RECORD = 5, 2**14 + 256
"""Bytes of a TLS record's header, and the most that may follow it (RFC 8446, section 5)."""


def test_there_is_nothing_but_tls_on_the_wire(story: Story) -> None:
    for stream in story.streams:
        place = 0
        while place + HEADER <= len(stream):
            kind, version = stream[place], stream[place + 1]
            length = int.from_bytes(stream[place + 3 : place + HEADER], "big")
            assert kind in (20, 21, 22, 23)
            assert version == 3
            assert length <= MOST_IN_RECORD
            place += HEADER + length
    everything = b"".join(story.streams)
    payload = sum(
        line["sites"][SITES[-1]].get(way, 0)
        for line in read_history(story.whole)
        for way in ("bytes_up", "bytes_down")
    )
    assert len(everything) > payload > 0
    for word in (SITES[-1], "lora_A", "dice", "adapter", "num-examples"):
        assert word.encode() not in everything
