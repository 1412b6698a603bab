"""Nodes that come, go, come back as others, or say nothing: a run waits for none of them long."""

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Error, Message
from flwr.common import Metadata

from common.errors import UserError
from common.flower_private import SUPERLINK_NODE_ID
from common.messages import DESCRIBE, NOT_APPROVED, TRAIN, VALIDATE, Failure
from strategies import roster
from strategies.roster import ASK_AGAIN_S, ASK_APPROVAL_S, MEET_S
from tests.strategies.fakes import (
    FakeGrid,
    FakeSite,
    Fault,
    Outcome,
    go_on,
    make_config,
    nodes,
    play,
    prepare,
    same_bits,
)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Let time pass only where a test says so."""
    fake = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        roster, "time", SimpleNamespace(monotonic=lambda: fake.now, sleep=lambda _: None)
    )
    return fake


def two_sites() -> list[FakeSite]:
    return [FakeSite("GE", 10), FakeSite("Siemens", 30)]


class WaitingGrid(FakeGrid):
    """Remembers how long it waited for which nodes."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        self.waits = getattr(self, "waits", [])
        self.waits += [
            (message.metadata.message_type, self.nodes[message.metadata.dst_node_id].name, timeout)
            for message in messages
        ]
        return super().send_and_receive(messages, timeout=timeout)

    def asked(self, site: str) -> list[float | None]:
        """Return how long a site was waited for each time it was to describe itself."""
        return [s for kind, name, s in self.waits if (kind, name) == (DESCRIBE, site)]


def mute(_message: Message, _reply: Message) -> None:
    return None


def test_a_run_that_goes_on_waits_briefly_for_a_newcomer() -> None:
    grid = WaitingGrid(nodes(*two_sites()))
    silent = FakeSite("Philips", faults={(0, DESCRIBE): mute})
    config = make_config(sites=2, round_timeout_s=3600)
    outcome = play(config, grid, events={1: lambda: grid.nodes.update({3: silent})})
    assert grid.asked("GE") == [3600]
    assert grid.asked("Philips") == [MEET_S]  # once, not in every phase
    assert outcome.refused(2) == {("node 3", "join"): "no answer"}
    assert sorted(outcome.penalties(3)) == ["GE", "Siemens"]


def test_a_newcomer_that_was_silent_is_asked_once_more(clock: SimpleNamespace) -> None:
    grid = WaitingGrid(nodes(*two_sites()))
    late = FakeSite("Philips", faults={(0, DESCRIBE): mute})

    def ready() -> None:
        clock.now += ASK_AGAIN_S[0]
        late.faults.clear()

    events = {1: lambda: grid.nodes.update({3: late}), 2: ready}
    outcome = play(make_config(sites=2), grid, events=events)
    assert sorted(outcome.penalties(2)) == ["GE", "Siemens"]
    assert sorted(outcome.penalties(3)) == ["GE", "Philips", "Siemens"]


def test_a_node_that_never_describes_itself_is_asked_ever_more_rarely(
    clock: SimpleNamespace,
) -> None:
    """A round every two minutes, for two hours: at first each of them waits for it."""
    never = FakeSite("Philips")
    never.faults.update({(number, DESCRIBE): mute for number in range(100)})
    grid = WaitingGrid(nodes(*two_sites(), never))

    def later() -> None:
        clock.now += ASK_AGAIN_S[0]

    rounds = 60
    play(make_config(sites=2, rounds=rounds), grid, events=dict.fromkeys(range(rounds), later))
    assert 5 <= len(grid.asked("Philips")) <= 8


@pytest.mark.parametrize("code", [3, 4, 5])
def test_a_node_that_flower_misses_while_it_is_asked_is_asked_again(
    clock: SimpleNamespace, code: int
) -> None:
    def gone(message: Message, _: Message) -> Message:
        return Message(Error(code, "Error: Node Unavailable"), reply_to=message)

    grid = WaitingGrid(nodes(*two_sites(), late := FakeSite("Philips")))
    late.faults[0, DESCRIBE] = gone

    def ready() -> None:
        clock.now += ASK_AGAIN_S[0]
        late.faults.clear()

    outcome = play(make_config(sites=2), grid, events={1: ready})
    assert outcome.refused(0)["node 3", "join"] == "no answer"
    assert sorted(outcome.penalties(2)) == ["GE", "Philips", "Siemens"]


def leave_and_come_back(site: FakeSite, grid: FakeGrid, node: int) -> dict[int, object]:
    def back() -> None:
        grid.nodes[node] = site

    return {1: lambda: grid.nodes.pop(node), 2: back}


def test_a_site_that_comes_back_with_another_base_is_turned_away() -> None:
    grid = WaitingGrid(nodes(*two_sites(), FakeSite("Philips", 20)))
    changed = FakeSite("Philips", 20, sha256="b" * 64)
    outcome = play(make_config(), grid, events=leave_and_come_back(changed, grid, 3))  # type: ignore[arg-type]
    assert outcome.refused(2)["Philips", "train"] == "no answer"
    assert "SHA-256 bbbb" in outcome.refused(3)["Philips", "join"]
    assert sorted(outcome.penalties(3)) == ["GE", "Siemens"]


def test_a_site_that_comes_back_unchanged_takes_part() -> None:
    same = FakeSite("Philips", 20)
    grid = WaitingGrid(nodes(*two_sites(), same))
    outcome = play(make_config(), grid, events=leave_and_come_back(same, grid, 3))  # type: ignore[arg-type]
    assert len(grid.asked("Philips")) == 2
    assert outcome.refused(3) == {}
    assert sorted(outcome.penalties(3)) == ["GE", "Philips", "Siemens"]


OTHER_VERSION = "the run is of version 0.3.0, this site has version 0.2.0"


@pytest.mark.parametrize(
    ("registered", "says", "named"),
    [
        ("St. Anna", "", "St. Anna"),
        ("", "Anna", "Anna"),
        ("", "", "node 3"),
    ],
)
def test_a_site_of_another_version_is_named_with_both(
    registered: str, says: str, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Sites are registered under names; a site of a version before 0.2.0 does not say its own."""

    class NamingGrid(FakeGrid):
        def get_nodes(self) -> Any:
            names = {3: registered}
            return [SimpleNamespace(node_id=n, name=names.get(n, "")) for n in self.nodes]

    def refuse(message: Message, _: Message) -> Message:
        return Message(Failure(OTHER_VERSION, says).to_record(), reply_to=message)

    old = FakeSite("old", faults={(0, DESCRIBE): refuse})
    outcome = play(make_config(), NamingGrid(nodes(*two_sites(), old)))
    assert outcome.refused(0)[named, "join"] == OTHER_VERSION
    assert f"{named} is left out of join: {OTHER_VERSION}" in caplog.text


class SuperLinkGrid(FakeGrid):
    """Numbers messages, and answers for a node that is gone as Flower's SuperLink does."""

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        messages = list(messages)
        for number, message in enumerate(messages):
            message.metadata.__dict__["_message_id"] = f"message {number}"
        gone = [m for m in messages if self.nodes[m.metadata.dst_node_id].name == "Philips"
                and m.metadata.message_type == TRAIN]  # fmt: skip
        here = [message for message in messages if message not in gone]
        replies = list(super().send_and_receive(here, timeout=timeout))
        return [*replies, *map(unavailable, gone)]


def unavailable(message: Message) -> Message:
    reply = Message(Error(5, "Error: Node Unavailable"), reply_to=message)
    metadata: Metadata = reply.metadata
    metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
    return reply


def test_a_site_that_is_gone_is_told_from_one_that_is_silent() -> None:
    sites = [*two_sites(), FakeSite("Philips", 20)]
    grid = SuperLinkGrid(dict(enumerate(sites, start=11)))
    outcome = play(make_config(), grid)
    assert outcome.refused(1) == {("Philips", "train"): "Error: Node Unavailable"}
    assert sorted(outcome.penalties(1)) == ["GE", "Siemens"]


def test_an_excluded_site_leaves_no_trace_in_the_result() -> None:
    without = play(make_config(sites=2), WaitingGrid(nodes(*two_sites())))
    grid = WaitingGrid(nodes(*two_sites(), FakeSite("St. Anna, Oslo", 20), FakeSite("Philips", 20)))
    outcome = play(make_config(sites=2, exclude="Philips, Anna, St. Anna"), grid)
    assert outcome.refused(0)["Philips", "join"] == "the run's key exclude names it"
    assert sorted(outcome.penalties(1)) == ["GE", "Siemens", "St. Anna, Oslo"]
    grid = WaitingGrid(nodes(*two_sites(), FakeSite("Philips", 20)))
    outcome = play(make_config(sites=2, exclude="Philips"), grid)
    assert outcome.result is not None
    assert without.result is not None
    assert same_bits(outcome.result, without.result)
    named = make_config(exclude="St. Anna, Oslo").federation.excluded()
    assert "St. Anna, Oslo" in named  # a name may have a comma


def unapproved(message: Message, _: Message) -> Message:
    return Message(Failure(NOT_APPROVED, "Philips").to_record(), reply_to=message)


class PatientGrid(WaitingGrid):
    """Lets a moment pass with every look at the nodes, in which ``then`` may happen."""

    def __init__(self, sites: dict[int, FakeSite], clock: SimpleNamespace) -> None:
        super().__init__(sites)
        self.clock = clock
        self.then: dict[float, Callable[[], object]] = {}

    def get_node_ids(self) -> Iterable[int]:
        self.clock.now += 1.0
        for at in [at for at in self.then if at <= self.clock.now]:
            self.then.pop(at)()
        return super().get_node_ids()


def waiting_for(outcome: Outcome) -> list[list[str]]:
    """Return the list that grows with every change of whom the run waits for."""
    seen: list[list[str]] = []
    outcome.strategy.exchange.roster.on_wait = lambda sites: seen.append(list(sites))
    return seen


def test_a_run_waits_for_a_hospital_that_has_not_approved_it(clock: SimpleNamespace) -> None:
    late = FakeSite("Philips", 20, faults={(0, DESCRIBE): unapproved})
    grid = PatientGrid(nodes(*two_sites(), late), clock)
    grid.then[5000.0] = late.faults.clear
    outcome = prepare(make_config(sites=3, approval_wait_s=6000))
    seen = waiting_for(outcome)
    go_on(outcome, grid)
    assert seen == [["Philips"], []]
    assert 5000 < clock.now < 5000 + ASK_APPROVAL_S[1] + 60
    assert 10 < len(grid.asked("Philips")) < 30  # ever more rarely
    assert len(grid.asked("GE")) == 1
    assert sorted(outcome.penalties(1)) == ["GE", "Philips", "Siemens"]
    assert outcome.refused(0) == {("Philips", "join"): NOT_APPROVED}  # once, not at every asking


def test_after_that_the_least_number_of_sites_is_enough_and_a_late_approval_joins(
    clock: SimpleNamespace,
) -> None:
    late = FakeSite("Philips", 20, faults={(0, DESCRIBE): unapproved})
    grid = PatientGrid(nodes(*two_sites(), late), clock)

    def approve() -> None:
        late.faults.clear()
        clock.now += ASK_APPROVAL_S[1]

    outcome = prepare(
        make_config(sites=3, approval_wait_s=600, rounds=4),
        events={
            1: lambda: setattr(clock, "now", clock.now + ASK_APPROVAL_S[1]),
            2: approve,
        },
    )
    go_on(outcome, grid)
    assert [sorted(outcome.penalties(number)) for number in (1, 2, 3)] == [
        ["GE", "Siemens"],
        ["GE", "Siemens"],
        ["GE", "Philips", "Siemens"],
    ]
    assert outcome.refused(1) == outcome.refused(2) == {}


def test_a_run_that_too_few_approve_says_who_has_not(clock: SimpleNamespace) -> None:
    late = FakeSite("Philips", 20, faults={(0, DESCRIBE): unapproved})
    grid = PatientGrid(nodes(FakeSite("GE"), late), clock)
    outcome = prepare(make_config(sites=2, approval_wait_s=60))
    with pytest.raises(UserError, match=f"1 site.* min-sites = 2: Philips: {NOT_APPROVED}"):
        go_on(outcome, grid)
    assert 60 < clock.now < 120


def test_an_approval_that_is_withdrawn_leaves_the_site_out_from_then_on() -> None:
    faults: dict[tuple[int, str], Fault] = {(2, TRAIN): unapproved, (2, VALIDATE): unapproved}
    grid = FakeGrid(nodes(*two_sites(), FakeSite("Philips", 20, faults=faults)))
    outcome = play(make_config(sites=3), grid)
    assert outcome.refused(2)["Philips", "train"] == NOT_APPROVED
    assert sorted(outcome.penalties(2)) == ["GE", "Siemens"]
    assert sorted(outcome.penalties(3)) == ["GE", "Philips", "Siemens"]  # approved again
