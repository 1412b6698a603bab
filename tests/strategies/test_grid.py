"""One site's reply that is half sent, malformed or too large is refused, and nothing else is."""

import json
from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.common import Array

from benchmarks.flower_private import (
    ObjectTree,
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    link_state,
)
from common.flower_private import (
    SUPERLINK_NODE_ID,
    ObjectPushError,
    TaskIdentity,
    TooLargeError,
    _bounded,
)
from strategies import grid as grid_module
from strategies.grid import SiteGrid
from tests.strategies.fakes import FakeGrid
from tests.strategies.superlink import SuperLink, Supernode, made

MOST = 2**18
TIMEOUT_S = 5.0
GOOD = MetricRecord({"dice": 0.5})
Behave = Callable[[Supernode, Message], None]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Let the sites act while the server sleeps; give the process its identity back."""
    fake = SimpleNamespace(now=0.0, act=lambda: None)

    def sleep(seconds: float) -> None:
        fake.now += seconds
        fake.act()

    time = SimpleNamespace(monotonic=lambda: fake.now, sleep=sleep)
    monkeypatch.setattr(grid_module, "time", time)
    before = TaskIdentity.run_id
    yield fake
    TaskIdentity.run_id = before


def honest(site: Supernode, request: Message) -> None:
    site.answer(request, RecordDict({"metrics": GOOD}))


def half(site: Supernode, request: Message) -> None:
    """Announce a reply and send all but its last object."""
    reply, objects = made(request, RecordDict({"metrics": GOOD}))
    session = site.announce(reply)
    objects.popitem()
    site.send(session, objects)


def announced(site: Supernode, request: Message) -> None:
    site.announce(made(request, RecordDict({"metrics": GOOD}))[0])


def altered(site: Supernode, request: Message, content: RecordDict, body: bytes) -> None:
    """Answer with another body in the last object that has no own name, under sound hashes."""
    reply, objects = made(request, content)
    (record,) = content.values()
    inner = next(iter(record.values())) if isinstance(record, ArrayRecord) else record
    assert isinstance(inner, Array | MetricRecord)
    new = add_header_to_object_body(body, inner)
    swaps, found = {inner.object_id: get_object_id(new)}, {get_object_id(new): new}
    tree: list[ObjectTree] = []
    for object_id, old in objects.items():
        if object_id == inner.object_id:
            continue
        for before, after in swaps.items():
            old = old.replace(before.encode(), after.encode())  # noqa: PLW2901
        swaps[object_id] = get_object_id(old)
        found[swaps[object_id]] = old
    ids = list(found)
    if isinstance(inner, Array):  # its chunk comes before it
        ids.insert(0, ids.pop(1))
    for object_id in ids:
        tree = [ObjectTree(object_id=object_id, children=tree)]
    reply.metadata.__dict__["_message_id"] = ids[-1]
    site.send(site.announce(reply, tree[0]), found)


def rubbish(site: Supernode, request: Message) -> None:
    """Send metrics whose body is none."""
    altered(site, request, RecordDict({"metrics": GOOD}), b"\xff\xfe rubbish")


def large(site: Supernode, request: Message) -> None:
    big = ArrayRecord({"tensors": Array(np.zeros(4 * MOST, np.uint8))})
    site.answer(request, RecordDict({"adapter": big}))


def bomb(site: Supernode, request: Message) -> None:
    """Send an array that names its one chunk ten thousand times."""
    arrays = ArrayRecord({"tensors": Array(np.arange(1000, dtype=np.uint8))})
    body = {"dtype": "uint8", "shape": [1], "stype": "numpy.ndarray", "arraychunk_ids": [0] * 10**4}
    altered(site, request, RecordDict({"adapter": arrays}), json.dumps(body).encode())


def scattered(site: Supernode, request: Message) -> None:
    """Send more objects than any reply has."""
    arrays = ArrayRecord({f"a{n}": Array(np.array([n])) for n in range(40)})
    site.answer(request, RecordDict({"adapter": arrays}))


def forged(changes: dict[str, Any]) -> Behave:
    """Return how a site answers 0.9 in a reply whose own object says other things of itself."""

    def act(site: Supernode, request: Message) -> None:
        reply = Message(RecordDict({"metrics": MetricRecord({"dice": 0.9})}), reply_to=request)
        facts = reply.metadata.__dict__
        before = dict(facts)
        facts.update(changes)
        tree, key = get_object_tree(reply), reply.object_id
        objects = {name: one.deflate() for name, one in get_all_nested_objects(reply).items()}
        facts.update(before | {"_message_id": key})  # what the SuperLink checks is sound
        site.send(site.announce(reply, tree), objects)

    return act


def request_to(node: int) -> Message:
    return Message(RecordDict(), dst_node_id=node, message_type="train")


def replies(clock: SimpleNamespace, *behave: Behave) -> list[str]:
    """Ask an honest site and these; return what the server has of each, "" for a good reply."""
    with link_state() as database:
        superlink = SuperLink(database.state())
        sites = {superlink.connect(str(n)): how for n, how in enumerate([*behave, honest])}

        def act() -> None:
            for site, how in sites.items():
                if (request := site.take()) is not None:
                    how(site, request)

        clock.act = act
        grid = SiteGrid(superlink.grid, lambda _: MOST)
        asked = [request_to(site.node_id) for site in sites]
        found = {r.metadata.src_node_id: r for r in grid.send_and_receive(asked, timeout=TIMEOUT_S)}
        return [_text(found.get(site.node_id)) for site in sites]


def _text(reply: Message | None) -> str:
    if reply is None:
        return "none"
    return str(reply.error.reason) if reply.has_error() else ""


def test_sound_sites_answer_at_once(clock: SimpleNamespace) -> None:
    assert replies(clock, honest) == ["", ""]
    assert clock.now < 1


@pytest.mark.parametrize("how", [half, announced])
def test_half_a_reply_is_waited_for_until_the_deadline(clock: SimpleNamespace, how: Behave) -> None:
    assert replies(clock, how) == ["its reply did not come whole within 5 s", ""]
    assert TIMEOUT_S <= clock.now < TIMEOUT_S + 1


def test_a_silent_site_has_no_reply(clock: SimpleNamespace) -> None:
    assert replies(clock, lambda *_: None) == ["none", ""]
    assert TIMEOUT_S <= clock.now < TIMEOUT_S + 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        (rubbish, "its reply cannot be read (DecodeError)"),
        (large, "its reply has more than 256.0 KiB"),
        (bomb, "its reply has more than 256.0 KiB"),
        (scattered, "its reply has more than 256.0 KiB"),
    ],
)
def test_a_hostile_reply_is_refused_at_once(
    clock: SimpleNamespace, how: Behave, reason: str
) -> None:
    assert replies(clock, how) == [reason, ""]
    assert clock.now < 1


@pytest.mark.parametrize("as_superlink", [False, True])
def test_no_site_answers_for_another(clock: SimpleNamespace, *, as_superlink: bool) -> None:
    """A reply names its sender and its request in an object that only its sender writes."""
    with link_state() as database:
        superlink = SuperLink(database.state())
        liar, honest_one = superlink.connect("liar"), superlink.connect("honest")
        taken: dict[int, Message] = {}

        def act() -> None:
            for site in (honest_one, liar):
                if (request := site.take()) is not None:
                    taken[site.node_id] = request
            if len(taken) == 2:
                honest(honest_one, taken[honest_one.node_id])
                claims = {"_src_node_id": SUPERLINK_NODE_ID if as_superlink else honest_one.node_id}
                other = taken[honest_one.node_id].metadata.message_id
                forged({**claims, "_reply_to_message_id": other})(liar, taken[liar.node_id])
                taken.clear()

        clock.act = act
        grid = SiteGrid(superlink.grid, lambda _: MOST)
        asked = [request_to(site.node_id) for site in (honest_one, liar)]
        found = [*grid.send_and_receive(asked, timeout=TIMEOUT_S)]
    dice = {r.metadata.src_node_id: r.content.metric_records["metrics"]["dice"] for r in found}
    assert dice == {honest_one.node_id: 0.5, liar.node_id: 0.9}
    answered = {r.metadata.src_node_id: r.metadata.reply_to_message_id for r in found}
    assert answered == {m.metadata.dst_node_id: m.metadata.message_id for m in asked}


def test_a_large_body_is_not_read() -> None:
    """The SuperLink says the length of an answer before it sends the answer."""
    read = []

    def body() -> Iterator[bytes]:
        read.append(1)
        yield b"x"

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-length": str(10**9)}, content=body())

    http = httpx.Client(transport=httpx.MockTransport(answer))
    client: Any = SimpleNamespace(_client=http)
    with pytest.raises(TooLargeError):
        _bounded(client, lambda: http.post("http://superlink"), most=MOST)
    assert read == []
    assert http.event_hooks["response"] == []


class PullingGrid(FakeGrid):
    """Numbers what it is sent; a reply is what ``answers`` returns for the node."""

    def __init__(self, answers: dict[int, Callable[[Message], list[Message]]]) -> None:
        super().__init__({})
        self.answers = answers
        self.pushed: dict[str, Message] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            self.pushed[str(message.metadata.dst_node_id)] = message
            yield str(message.metadata.dst_node_id)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        (one,) = message_ids
        return self.answers[int(one)](self.pushed[one])


def test_any_grid_that_pushes_and_pulls_will_do() -> None:
    """One site's reply raises, one is too large, one never comes; the fourth is sound."""

    def good(request: Message) -> list[Message]:
        return [Message(RecordDict({"metrics": GOOD}), reply_to=request)]

    def broken(_: Message) -> list[Message]:
        raise KeyError("x")

    def big(request: Message) -> list[Message]:
        arrays = ArrayRecord({"tensors": Array(np.zeros(2 * MOST, np.uint8))})
        return [Message(RecordDict({"adapter": arrays}), reply_to=request)]

    grid = SiteGrid(PullingGrid({1: broken, 2: big, 3: lambda _: [], 4: good}), lambda _: MOST)
    asked = [request_to(node) for node in (1, 2, 3, 4)]
    found = {r.metadata.src_node_id: _text(r) for r in grid.send_and_receive(asked, timeout=5)}
    assert found == {
        1: "its reply cannot be read (KeyError)",
        2: "its reply has more than 256.0 KiB",
        4: "",
    }


def test_a_message_that_the_site_confirms_too_soon_is_not_sent() -> None:
    """A site says that it has a message while the server still sends its objects."""

    class Hasty(PullingGrid):
        def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
            (message,) = messages
            if message.metadata.dst_node_id == 1:
                raise ObjectPushError("x", 1, "session")
            return super().push_messages([message])

    def good(request: Message) -> list[Message]:
        return [Message(RecordDict({"metrics": GOOD}), reply_to=request)]

    grid = SiteGrid(Hasty({2: good}), lambda _: MOST)
    asked = [request_to(node) for node in (1, 2)]
    found = {r.metadata.src_node_id: _text(r) for r in grid.send_and_receive(asked, timeout=5)}
    assert found == {1: "it could not be sent", 2: ""}


def test_what_ends_the_run_is_passed_on() -> None:
    def ended(_: Message) -> list[Message]:
        raise RuntimeError("the engine ended")

    grid = SiteGrid(PullingGrid({1: ended}), lambda _: MOST)
    with pytest.raises(RuntimeError, match="the engine ended"):
        grid.send_and_receive(
            [Message(RecordDict(), dst_node_id=1, message_type="train")], timeout=5
        )
