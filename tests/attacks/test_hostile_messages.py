"""Messages that cost memory, disk, threads or time before anybody judges them."""

import json
import struct
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common import Array

from client_app import envelope, runner, site
from client_app.app import answer
from common import messages, records
from common.messages import CANNOT, FIXED, MEMORY, NOT_APPROVED, OTHER_NETWORK
from tests.attacks.kit import RANK, Hospital, refusal, start


def receive(hospital: Hospital, monkeypatch: pytest.MonkeyPatch, message: Message) -> Any:
    """Return what the runner of ``rate-my-lora join`` answers a message with; None for nothing."""
    answers: list[Message] = []
    run = SimpleNamespace(
        run_id=1, fab_id="us/rate-my-lora", fab_version=metadata.version("rate-my-lora")
    )
    monkeypatch.setattr(runner, "acquire_task", lambda _: "token")
    monkeypatch.setattr(runner, "is_waited_for", lambda _: True)
    monkeypatch.setattr(runner, "pull_task", lambda _: (message, hospital.context(), run))
    monkeypatch.setattr(runner, "POLL_S", 0.0)
    monkeypatch.setattr(runner, "push_answer", lambda _, reply, __: answers.append(reply))
    turns = iter([True, False])
    runner.Runner("127.0.0.1:1").serve(lambda: next(turns))
    return answers[0] if answers else None


TYPES = ("train.other", "query", "system", "evaluate.test_more", "train." + "x" * 100_000)


@pytest.mark.parametrize("kind", TYPES, ids=range(len(TYPES)))
def test_a_type_that_nobody_knows(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A message of a type that the app does not know ends the site."""
    message = hospital.message(messages.DESCRIBE)
    message.metadata.message_type = kind
    assert refusal(receive(hospital, monkeypatch, message)) == CANNOT
    came, left = hospital.log()
    assert came["verdict"].startswith("refused: found type")
    assert left["verdict"] == "passed"
    assert len(json.dumps(came)) < 5000


@pytest.mark.parametrize("kind", ["", "train\n\x1b[2J"])
def test_a_type_that_flower_does_not_know(
    hospital: Hospital,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """A message of a type that Flower does not know, to which there is no answer, ends the site."""
    message = hospital.message(messages.DESCRIBE)
    message.metadata.__dict__["_message_type"] = kind
    assert receive(hospital, monkeypatch, message) is None
    assert "Invalid message type" in caplog.text
    assert hospital.log()[0]["verdict"].startswith("refused: found type")
    assert hospital.log()[0]["kind"].isprintable()


def array(data: bytes, dtype: str = "uint8", stype: str = "numpy.ndarray") -> ArrayRecord:
    return ArrayRecord({records.PACKED: Array(dtype, (len(data),), stype, data)})


def packed(header: object, body: bytes = b"") -> ArrayRecord:
    text = json.dumps(header).encode()
    data = struct.pack("<Q", len(text)) + text + body
    return ArrayRecord({records.PACKED: Array(np.frombuffer(data, np.uint8))})


def empty_tensors(count: int) -> ArrayRecord:
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    return packed({f"t{number}": entry for number in range(count)})


Change = Callable[[RecordDict], Any]


def config(change: Callable[[ConfigRecord], Any]) -> Change:
    return lambda content: change(content.config_records[messages.CONFIG])


def put(key: str, record: ArrayRecord | ConfigRecord | MetricRecord) -> Change:
    return lambda content: content.__setitem__(key, record)


ODD: Mapping[str, Change] = {
    "no configuration": lambda content: content.pop(messages.CONFIG),
    "metrics in its place": put(messages.CONFIG, MetricRecord({"x": 1})),
    "another record": put("more", ConfigRecord({})),
    "an adapter in the configuration": put(messages.ADAPTER, ConfigRecord({})),
    "ten thousand keys": config(lambda c: c.update({f"k{n}": 1 for n in range(10_000)})),
    "a key of a megabyte": config(lambda c: c.update({"k" * 10**6: 1})),
    "a text of ten megabytes": config(lambda c: c.update({"profile": "x" * 10**7})),
    "a text of a hundred kilobytes": config(lambda c: c.update({"run-dir": "x" * 10**5})),
    "a list": config(lambda c: c.update({"rank": list(range(1000))})),
    "bytes": config(lambda c: c.update({"profile": bytes(1000)})),
    "a rank that is a text": config(lambda c: c.update({"site-rank": "x" * 4000})),
    "a rank of -1": config(lambda c: c.update({"site-rank": -1})),
    "a rank of 2^31 of the run": config(lambda c: c.update({"run-rank": 2**31})),
    "round 10^9": config(lambda c: c.update({"server-round": 10**9})),
    "round -1": config(lambda c: c.update({"server-round": -1})),
    "10^12 merges": config(lambda c: c.update({"folds": 10**12})),
    "what was trained in round -1": config(lambda c: c.update({"held": -1})),
    "a run id of a kilobyte": config(lambda c: c.update({"run-id": "x" * 1000})),
    "a thousand adapters to rate": lambda c: c.update(
        {messages.OTHER.format(n): array(b"x") for n in range(1, 1001)}
    ),
    "a hundred thousand tensors": put(messages.ADAPTER, empty_tensors(100_000)),
    "two arrays": put(messages.ADAPTER, ArrayRecord({x: Array(np.ones(1)) for x in ("a", "b")})),
    "an array with a long type": put(messages.ADAPTER, array(b"x", "u" * 10**6)),
    "an array of another kind": put(messages.ADAPTER, array(b"x", stype="torch")),
    "a pickle": put(messages.ADAPTER, array(b"\x80\x04cos\nsystem\n.")),
    "numpy of version 2": put(messages.ADAPTER, array(b"\x93NUMPY\x02\x00" + bytes(100))),
}  # fmt: skip


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_odd_content(hospital: Hospital, monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """A message of odd content ends the site, fills its log or is worked on."""
    monkeypatch.setattr(site, "read_cases", lambda *_: pytest.fail("the patients are read"))
    message = hospital.message(messages.VALIDATE, start())
    change(message.content)
    assert refusal(receive(hospital, monkeypatch, message)) == CANNOT
    assert [line["direction"] for line in hospital.log()] == ["in", "out"]
    assert hospital.audit.stat().st_size < 2 * 10**5


def test_an_error_in_place_of_content(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    """A message that is one of Flower's errors ends the site."""
    request = hospital.message(messages.TRAIN)
    message = Message(Error(1, "x" * 10**6), reply_to=request)
    assert refusal(receive(hospital, monkeypatch, message)) == CANNOT
    assert hospital.audit.stat().st_size < 10**4


def test_a_message_that_cannot_be_unpacked(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a message, which Flower cannot unpack, ends the site."""

    def half(_: object) -> None:
        raise RuntimeError("no object")

    monkeypatch.setattr(runner, "acquire_task", lambda _: "token")
    monkeypatch.setattr(runner, "is_waited_for", lambda _: True)
    monkeypatch.setattr(runner, "pull_task", half)
    monkeypatch.setattr(runner, "POLL_S", 0.0)
    turns = iter([True, True, False])
    runner.Runner("127.0.0.1:1").serve(lambda: next(turns))
    assert caplog.text.count("no object") >= 2


LARGE: Mapping[str, tuple[dict[str, object], str]] = {
    "features": ({"features": "32,64,2048,2048,2048,32"}, OTHER_NETWORK),
    "more features": ({"features": "4096,4096,4096,4096,4096,4096"}, OTHER_NETWORK),
    "one other feature": ({"features": "4,8,8,8,8,8"}, OTHER_NETWORK),
    "batch": ({"batch-size": 1024, "image-size": 1024}, MEMORY),
    "a spacing of 0.1 mm": ({"spacing-mm": 0.1}, CANNOT),
    "a spacing of 0.4 mm": (
        {"spacing-mm": 0.4},
        "spacing-mm = 0.4 is asked, this site allows 0.5 to 5",
    ),
    "2^31 threads": ({"threads": 2**31 - 1}, CANNOT),
    "2^40 threads": ({"threads": 2**40}, CANNOT),
    "a learning rate of 10^10": ({"learning-rate": 1e10}, CANNOT),
    "a learning rate of 1": (
        {"learning-rate": 1.0},
        "learning-rate = 1 is asked, this site allows 1e-06 to 0.1",
    ),
    "an alpha of next to nothing": (
        {"alpha-per-rank": 1e-12},
        "alpha-per-rank = 1e-12 is asked, this site allows 0.05 to 20",
    ),
    "epochs": ({"local-epochs": 9999}, "9999 epochs are asked, this site allows 2"),
    "rank": ({"site-rank": 33}, "rank 33 is asked, this site allows 32"),
    "a base of any name": (
        {"base-sha256": "x"},
        "base-sha256 has a value that this site does not allow",
    ),
}


@pytest.mark.parametrize(("keys", "sentence"), LARGE.values(), ids=LARGE)
def test_what_takes_more_than_the_site_has(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], sentence: str
) -> None:
    """A key that takes gigabytes, threads or hours, or trains to no purpose."""
    monkeypatch.setattr(site, "read_cases", lambda *_: pytest.fail("the patients are read"))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("threads are taken"))
    assert refusal(hospital.ask(messages.TRAIN, start(), **keys)) == sentence
    assert sentence in FIXED or "asked" in sentence or "value" in sentence


def test_threads_and_device_are_the_sites(
    patients: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run sets the threads of the site's process, or its device."""
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    hospital = Hospital(patients, tmp_path, threads=1, device="cpu")
    reply = hospital.ask(messages.DESCRIBE, threads=300, device="cuda")
    assert not refusal(reply)
    assert asked == [1]


def test_a_rank_below_zero_is_no_way_round_the_limit(hospital: Hospital) -> None:
    """A rank of -1 drops one column of the run's rank, however high that is."""
    adapter = start(RANK)
    keys = {"site-rank": -1, "run-rank": 65, "sends": "none", "merge": "pad", "rating": "none"}
    assert refusal(hospital.ask(messages.TRAIN, adapter, **keys)) == CANNOT


def test_spacings_do_not_fill_the_disk(hospital: Hospital) -> None:
    """Run after run with another spacing fills the site's disk with volumes."""
    root = hospital.cache / "volumes"
    root.mkdir(parents=True)
    (root / "0123.pt").write_bytes(bytes(1000))
    for spacing in (4.0, 4.001, 4.002, 4.003, 4.0):
        hospital.new_run()
        assert not refusal(hospital.ask(messages.DESCRIBE, **{"spacing-mm": spacing}))
        hospital.new_run()
        newest = root / f"{spacing}-mm"
        kept = sorted(path.name for path in root.iterdir())
        assert newest.name in kept
        assert len(kept) <= 2
    assert any(newest.iterdir())


@pytest.mark.parametrize(("limit", "gib"), [("max_cache_gib", 1e-6), ("max_memory_gib", 0.01)])
def test_volumes_beyond_the_sites_disk_or_memory(
    patients: Path, tmp_path: Path, limit: str, gib: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fine spacing whose volumes alone are more than the site has."""
    hospital = Hospital(patients, tmp_path, **{limit: gib})
    monkeypatch.setattr(site, "load_volume", lambda *_: pytest.fail("a volume is prepared"))
    keys = {"spacing-mm": 0.5, "batch-size": 1}
    assert refusal(hospital.ask(messages.DESCRIBE, **keys)) == MEMORY
    assert not (hospital.cache / "volumes").exists()


def test_more_than_the_network_has(hospital: Hospital) -> None:
    """An adapter of a gigabyte, which is parsed before it is refused."""
    most = envelope.sizes((4, 8, 8, 8, 8, 4))[messages.ADAPTER]
    large = packed({}, bytes(most + 1))
    assert refusal(hospital.ask(messages.VALIDATE, arrays={messages.ADAPTER: large})) == CANNOT
    assert "this site's network has at most" in hospital.log()[0]["verdict"]


def test_the_answer_to_a_broken_wire_is_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SuperNode is gone in the middle of a message."""

    def gone(_: object) -> str:
        raise httpx.ConnectError("")

    monkeypatch.setattr(runner, "acquire_task", gone)
    monkeypatch.setattr(runner, "POLL_S", 0.0)
    turns = iter([True, True, False])
    runner.Runner("127.0.0.1:1").serve(lambda: next(turns))
    assert next(turns, None) is None


def test_a_site_without_settings_answers_a_sentence() -> None:
    """A message to a site whose own settings are wrong."""
    message = Message(RecordDict({}), dst_node_id=7, message_type="query.x")
    context = Context(1, 7, {"site": "A", "no-such-key": 1}, RecordDict(), {})
    assert refusal(answer(message, context)) == CANNOT


@pytest.mark.parametrize("kind", [messages.TRAIN, messages.VALIDATE, messages.TEST])
def test_a_higher_rank_than_the_run_that_was_approved(hospital: Hospital, kind: str) -> None:
    """A run of rank 8 at most, as the hospital was shown, asks for an adapter of rank 32."""
    assert refusal(hospital.ask(messages.DESCRIBE)) == ""
    reply = hospital.ask(kind, start(32))
    assert refusal(reply) == "rank 32 is asked, this site allows 8"
    assert refusal(hospital.ask(kind, start(8))) == ""


@pytest.mark.parametrize("keys", [{"local_validation": True}, {"keep_updates": "all"}])
def test_more_than_the_run_that_was_approved(hospital: Hospital, keys: dict[str, Any]) -> None:
    """A run asks for one more Dice, or to keep every adapter, after its approval."""
    assert refusal(hospital.ask(messages.DESCRIBE)) == ""
    assert refusal(hospital.ask(messages.TRAIN, start(), **keys)) == NOT_APPROVED
    assert refusal(hospital.ask(messages.TRAIN, start())) == ""
