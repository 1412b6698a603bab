"""A reply leaves a site only with what is allowed, and every message is logged."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common import Array
from safetensors.torch import load, save
from torch import Tensor, nn

from client_app.audit import read_audit
from client_app.guard import guard
from client_app.hash_chain import HashChain
from common import messages, records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.messages import CANNOT, REFUSED, UNEXPECTED, Failure
from common.method import Half
from common.model import build_unet, save_base
from common.options import Value
from tests.conftest import SMALL, MakeAdapter

RANK = 3
CONFIG = RunConfig.from_flat({"features": ",".join(map(str, SMALL)), "rounds": 4})
Change = Callable[[RecordDict], object]


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(RANK)


def request(kind: str, adapter: Adapter | None = None, config: RunConfig = CONFIG) -> Message:
    arrays = None if adapter is None else records.adapter_to_record(adapter)
    number = 0 if kind == messages.DESCRIBE else 4
    made = messages.REQUESTS[kind](config, token_hex(8), number, RANK, adapter=arrays)
    content = made.to_record()
    return Message(content, dst_node_id=7, message_type=kind)


def good(kind: str, adapter: Adapter) -> RecordDict:
    numbers: dict[str, dict[str, int | float]] = {
        messages.DESCRIBE: {"train-examples": 9, "train-cases": 8, "val-cases": 2, "test-cases": 2},
        messages.TRAIN: {"num-examples": 9, "loss": 0.5, "seconds": 1.0, "start-dice": 0.5},
        messages.VALIDATE: {"dice": 0.5, "num-examples": 2},
        messages.TEST: {"cases": 2, **dict.fromkeys(messages.SCORES, 0.5)},
    }
    content = RecordDict({messages.METRICS: MetricRecord(numbers[kind])})  # type: ignore[arg-type]
    if kind == messages.TRAIN:
        content[messages.ADAPTER] = records.adapter_to_record(adapter)
    if kind == messages.DESCRIBE:
        content[messages.CONFIG] = ConfigRecord({"site": "St. Anna", "base-sha256": "ab" * 32})
    return content


def pass_guard(folder: Path, message: Message, content: RecordDict) -> Message:
    node = hospital(folder, whole_weights=True)
    context = Context(run_id=11, node_id=7, node_config=node, state=RecordDict(), run_config={})
    return guard(message, context, lambda *_: content)


def hospital(folder: Path, **limits: Value) -> dict[str, Value]:
    """Return the node configuration of a hospital that answers every run."""
    if not (folder / "base").exists():
        save_base(build_unet(SMALL), folder / "base")
    places = {
        "cache-dir": str(folder / "cache"),
        "base-model": str(folder / "base"),
        "audit-log": str(folder / "audit.jsonl"),
    }
    own = {key.replace("_", "-"): value for key, value in limits.items()}
    return {"site": "GE", "approve": "any", **places, **own}


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [dict(line) for line in read_audit(folder / "audit.jsonl")]


def error_in(reply: Message) -> object:
    config = reply.content[messages.CONFIG]
    assert isinstance(config, ConfigRecord)
    return config[messages.ERROR]


@pytest.mark.parametrize(
    "kind", [messages.DESCRIBE, messages.TRAIN, messages.VALIDATE, messages.TEST]
)
def test_what_is_called_for_leaves_unchanged(tmp_path: Path, adapter: Adapter, kind: str) -> None:
    content = good(kind, adapter)
    reply = pass_guard(tmp_path, request(kind), content)
    assert reply.content is content
    assert [(line["direction"], line["verdict"]) for line in log_of(tmp_path)] == [
        ("in", "passed"),
        ("out", "passed"),
    ]


def arrays(content: RecordDict) -> ArrayRecord:
    found = content[messages.ADAPTER]
    assert isinstance(found, ArrayRecord)
    return found


FIRST = "conv_0.conv_0.conv.lora_A"


def set_tensors(change: Callable[[dict[str, Tensor]], object]) -> Change:
    def changed(content: RecordDict) -> None:
        tensors = records.record_to_tensors(arrays(content))
        change(tensors)
        content[messages.ADAPTER] = records.tensors_to_record(tensors)

    return changed


def set_bytes(change: Callable[[bytes], bytes]) -> Change:
    def changed(content: RecordDict) -> None:
        data = change(arrays(content)[records.PACKED].numpy().tobytes())
        array = Array(np.frombuffer(data, np.uint8))
        content[messages.ADAPTER] = ArrayRecord({records.PACKED: array})

    return changed


def append_bytes(content: RecordDict) -> None:
    old = arrays(content)[records.PACKED]
    array = Array(old.dtype, old.shape, old.stype, old.data + bytes(1000))
    content[messages.ADAPTER] = ArrayRecord({records.PACKED: array})


def relabel(content: RecordDict) -> None:
    """Let an array claim a type that its bytes do not have."""
    old = arrays(content)[records.PACKED]
    array = Array("patient 007", old.shape, old.stype, old.data)
    content[messages.ADAPTER] = ArrayRecord({records.PACKED: array})


def with_note(data: bytes) -> bytes:
    """Return the same tensors with a note in the header."""
    return save(load(data), {"patient": "007"})


def with_spaces(data: bytes) -> bytes:
    """Return the same tensors with spaces after the header, whose number could carry data."""
    size = int.from_bytes(data[:8], "little")
    return (size + 8).to_bytes(8, "little") + data[8 : 8 + size] + b" " * 8 + data[8 + size :]


def add(content: RecordDict, key: str, record: Any) -> None:
    content[key] = record


def metric(name: str, value: Any) -> Change:
    def change(content: RecordDict) -> None:
        found = content[messages.METRICS]
        assert isinstance(found, MetricRecord)
        found[name] = value

    return change


SMUGGLED: list[tuple[str, str, Change]] = [
    ("an image beside the adapter", messages.TRAIN,
     lambda c: arrays(c).update({"image": Array(np.zeros((9, 9), np.float32))})),
    ("another record of arrays", messages.TRAIN,
     lambda c: add(c, "more", ArrayRecord({"x": Array(np.zeros(3, np.float32))}))),
    ("arrays in a validation", messages.VALIDATE,
     lambda c: add(c, messages.ADAPTER, ArrayRecord({"x": Array(np.zeros(3, np.float32))}))),
    ("a factor of another shape", messages.TRAIN,
     set_tensors(lambda t: t.update({FIRST: t[FIRST][:-1]}))),
    ("a factor of another type", messages.TRAIN,
     set_tensors(lambda t: t.update({FIRST: t[FIRST].double()}))),
    ("a missing factor", messages.TRAIN, set_tensors(lambda t: t.pop(FIRST))),
    ("an image among the factors", messages.TRAIN,
     set_tensors(lambda t: t.update({"image": torch.zeros(9, 9)}))),
    ("bytes behind the tensors", messages.TRAIN, set_bytes(lambda data: data + bytes(1000))),
    ("bytes that are no adapter", messages.TRAIN, set_bytes(lambda _: b"123")),
    ("a note beside the tensors", messages.TRAIN, set_bytes(with_note)),
    ("bytes behind the array", messages.TRAIN, append_bytes),
    ("an array that says it is another", messages.TRAIN, relabel),
    ("spaces in the header", messages.TRAIN, set_bytes(with_spaces)),
    ("a metric by patient", messages.VALIDATE, metric("dice.patient007", 0.5)),
    ("a list of numbers", messages.TEST, metric("base.dice.LV", [0.1, 0.9])),
    ("a metric of another request", messages.VALIDATE, metric("loss", 0.5)),
    ("free text in a description", messages.DESCRIBE,
     lambda c: c.config_records[messages.CONFIG].update({"note": "patient 7"})),
    ("a description that is too long", messages.DESCRIBE,
     lambda c: c.config_records[messages.CONFIG].update({"site": "x" * 200})),
    ("a fingerprint that is none", messages.DESCRIBE,
     lambda c: c.config_records[messages.CONFIG].update({"base-sha256": "patient 7"})),
    ("free text in training", messages.TRAIN,
     lambda c: add(c, messages.CONFIG, ConfigRecord({"note": "patient 7"}))),
    ("an error text with a file name", messages.TRAIN,
     lambda c: add(c, messages.CONFIG, ConfigRecord({messages.ERROR: "/data/7.nii.gz is broken"}))),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "change"), [case[1:] for case in SMUGGLED], ids=[case[0] for case in SMUGGLED]
)
def test_what_is_not_on_the_list_stays(
    tmp_path: Path, adapter: Adapter, kind: str, change: Change
) -> None:
    content = good(kind, adapter)
    change(content)
    reply = pass_guard(tmp_path, request(kind), content)
    assert set(reply.content) == {messages.CONFIG}
    assert error_in(reply) == REFUSED
    came, left = log_of(tmp_path)
    assert (came["verdict"], left["verdict"][:8]) == ("passed", "refused:")


METHODS: list[tuple[dict[str, Value], tuple[Half, ...]]] = [
    ({"factors": "B"}, ("B",)),
    ({"factors": "alternate", "ranks": "equal"}, ("A",)),  # round 4
    ({"sends": "A"}, ("A",)),
    ({"sends": "none"}, ()),
]


@pytest.mark.parametrize(("keys", "halves"), METHODS)
def test_only_the_halves_that_the_method_sends_leave(
    tmp_path: Path, adapter: Adapter, keys: dict[str, Value], halves: tuple[Half, ...]
) -> None:
    flat = {**CONFIG.to_flat(), "merge": "pad", "rating": "none", **keys}
    config = RunConfig.from_flat(flat)
    for sent in ((), ("A",), ("B",), ("A", "B")):
        content = good(messages.TRAIN, adapter)
        if sent:
            content[messages.ADAPTER] = records.halves_to_record(adapter, sent)
        else:
            del content[messages.ADAPTER]
        reply = pass_guard(tmp_path, request(messages.TRAIN, config=config), content)
        assert (reply.content is content) == (sent == halves), sent


def test_where_nothing_is_sent_no_text_leaves_in_the_adapters_place(
    tmp_path: Path, adapter: Adapter
) -> None:
    flat = {**CONFIG.to_flat(), "merge": "pad", "rating": "none", "sends": "none"}
    content = good(messages.TRAIN, adapter)
    content[messages.ADAPTER] = ConfigRecord({"note": "patient 7"})
    message = request(messages.TRAIN, config=RunConfig.from_flat(flat))
    assert error_in(pass_guard(tmp_path, message, content)) == REFUSED


def test_whole_weights_leave_only_where_they_train(tmp_path: Path, unet: nn.Module) -> None:
    flat = {**CONFIG.to_flat(), "trains": "weights", "merge": "pad", "rating": "none"}
    weights = unet.state_dict()
    for config, passes in ((RunConfig.from_flat(flat), True), (CONFIG, False)):
        metrics = {"num-examples": 9, "loss": 0.5, "seconds": 1.0}
        content = RecordDict({messages.METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]
        content[messages.ADAPTER] = records.tensors_to_record(weights)
        reply = pass_guard(tmp_path, request(messages.TRAIN, config=config), content)
        assert (reply.content is content) == passes


@pytest.mark.parametrize(
    ("brought", "told", "passes"),
    [(2, 2, True), (2, 3, False), (2, 1, False), (0, 1, False)],
)
def test_a_dice_leaves_for_every_adapter_that_came(
    tmp_path: Path, adapter: Adapter, brought: int, told: int, passes: bool
) -> None:
    config = RunConfig.from_flat({**CONFIG.to_flat(), "rating": "search"})
    message = request(messages.VALIDATE, adapter, config)
    for number in range(1, brought + 1):
        message.content[messages.OTHER.format(number)] = records.adapter_to_record(adapter)
    content = good(messages.VALIDATE, adapter)
    for number in range(1, told + 1):
        content.metric_records[messages.METRICS][f"dice-{number}"] = 0.5
    assert (pass_guard(tmp_path, message, content).content is content) == passes


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        (messages.TRAIN, "loss", 0.5001),
        (messages.TRAIN, "local-dice", 0.50001),
        (messages.VALIDATE, "dice", 0.1234),
        (messages.TEST, "base.dice.LV", 1 / 3),
        (messages.TEST, "test.hd95_mm.mean", 4.05),
    ],
)
def test_no_number_leaves_with_more_decimals_than_it_may(
    tmp_path: Path, adapter: Adapter, kind: str, key: str, value: float
) -> None:
    content = good(kind, adapter)
    content.metric_records[messages.METRICS][key] = value
    assert error_in(pass_guard(tmp_path, request(kind), content)) == REFUSED
    content.metric_records[messages.METRICS][key] = messages.rounded(key, value)
    assert pass_guard(tmp_path, request(kind), content).content is content


def test_an_error_with_a_text_beside_data_stays(tmp_path: Path, adapter: Adapter) -> None:
    content = good(messages.TRAIN, adapter)
    content[messages.CONFIG] = ConfigRecord({messages.ERROR: CANNOT})
    assert error_in(pass_guard(tmp_path, request(messages.TRAIN), content)) == REFUSED


@pytest.mark.parametrize("sentence", [CANNOT, UNEXPECTED, "rank 32 is asked, this site allows 16"])
def test_the_few_sentences_leave(tmp_path: Path, sentence: str) -> None:
    reply = pass_guard(tmp_path, request(messages.TRAIN), Failure(sentence).to_record())
    assert error_in(reply) == sentence


@pytest.mark.parametrize(("site", "leaves"), [("St. Anna", True), ("St.\nAnna", False)])
def test_a_site_of_another_version_says_its_name(tmp_path: Path, site: str, leaves: bool) -> None:
    sentence = "the run is of version 0.3.0, this site has version 0.2.0"
    content = Failure(sentence, site).to_record()
    reply = pass_guard(tmp_path, request(messages.DESCRIBE), content)
    assert error_in(reply) == (sentence if leaves else REFUSED)
    assert ("site" in reply.content.config_records[messages.CONFIG]) == leaves


def test_an_app_that_raises_says_nothing_of_why(tmp_path: Path) -> None:
    def app(*_: object) -> RecordDict:
        raise ValueError("patient 007")

    node = hospital(tmp_path)
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    assert error_in(guard(request(messages.TRAIN), context, app)) == UNEXPECTED


def test_the_log_has_every_array_and_byte(tmp_path: Path, adapter: Adapter) -> None:
    content = good(messages.TRAIN, adapter)
    pass_guard(tmp_path, request(messages.TRAIN, adapter), content)
    came, left = log_of(tmp_path)
    assert (came["round"], came["kind"], came["run"]) == (4, "train", "11")
    assert came["payload_bytes"] == left["payload_bytes"] == adapter.payload_bytes
    assert left["message_bytes"] > sum(array["bytes"] for array in left["arrays"])
    assert left["metrics"] == {"metrics": dict(content.metric_records["metrics"])}
    by_name = {array["name"]: array for array in left["arrays"]}
    assert set(by_name) == {f"adapter/{name}" for name in adapter.tensors()}
    for name, value in adapter.tensors().items():
        line = by_name[f"adapter/{name}"]
        assert line["shape"] == list(value.shape)
        assert line["sha256"] == hashlib.sha256(value.numpy().tobytes()).hexdigest()


def test_where_the_log_cannot_be_written_nothing_leaves(tmp_path: Path, adapter: Adapter) -> None:
    (tmp_path / "audit.jsonl").mkdir()
    reply = pass_guard(tmp_path, request(messages.TRAIN), good(messages.TRAIN, adapter))
    assert error_in(reply) == CANNOT


def test_a_simulated_site_is_guarded_and_keeps_no_log(tmp_path: Path, adapter: Adapter) -> None:
    content = good(messages.VALIDATE, adapter)
    metric("dice.patient007", 0.5)(content)
    node: dict[str, Value] = {"partition-id": 0, "num-partitions": 3}
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    message = request(messages.VALIDATE)
    reply = guard(message, context, lambda *_: content)
    assert error_in(reply) == REFUSED
    assert list(tmp_path.iterdir()) == []


def test_a_line_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    HashChain(path, lambda note: {"note": note}).append({"direction": "in"})
    with pytest.raises(UserError, match=r"audit\.jsonl: line 1 is not an audit line"):
        list(read_audit(path))


def test_what_a_deployed_site_writes_is_its_own(tmp_path: Path, adapter: Adapter) -> None:
    def app(*_: object) -> RecordDict:
        (tmp_path / "kept").touch()
        return good(messages.TRAIN, adapter)

    node = hospital(tmp_path, audit_log=str(tmp_path / "log" / "audit.jsonl"))
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    before = os.umask(0o022)
    try:
        guard(request(messages.TRAIN), context, app)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "base"]
    assert len(files) == 7  # the app's, the log and its head, the run, its approval, ledger, reply
    assert all(path.stat().st_mode & 0o077 == 0 for path in (*files, tmp_path / "log"))


def test_every_reply_carries_the_hash_of_the_request_in_the_log(
    tmp_path: Path, adapter: Adapter
) -> None:
    bad = good(messages.VALIDATE, adapter)
    metric("patient007", 0.5)(bad)
    unkind = Message(RecordDict(), dst_node_id=7, message_type="train.other")
    replies = [
        pass_guard(tmp_path, request(messages.TRAIN, adapter), good(messages.TRAIN, adapter)),
        pass_guard(tmp_path, request(messages.VALIDATE), bad),
        pass_guard(tmp_path, request(messages.TRAIN), Failure(CANNOT).to_record()),
        pass_guard(tmp_path, unkind, Failure(CANNOT).to_record()),
    ]
    lines = log_of(tmp_path)
    hashes = [line["previous"] for line in lines if line["direction"] == "out"]
    assert [messages.audit_hash(reply) for reply in replies] == hashes
    assert len(set(hashes)) == 4
    assert (
        hashlib.sha256((tmp_path / "audit.jsonl").read_bytes().split(b"\n")[0]).hexdigest()
        == (hashes[0])
    )


def test_a_stored_reply_leaves_with_the_hash_that_it_had(tmp_path: Path, adapter: Adapter) -> None:
    content = good(messages.VALIDATE, adapter)
    before = pass_guard(tmp_path, request(messages.VALIDATE), content).content.object_id
    again = pass_guard(tmp_path, request(messages.VALIDATE), content)
    assert again.content.object_id == before
    assert log_of(tmp_path)[-1]["verdict"] == "passed"


@pytest.mark.parametrize("text", ["patient 7", "ab" * 31, 7])
def test_nothing_else_leaves_in_the_place_of_the_hash(
    tmp_path: Path, adapter: Adapter, text: Any
) -> None:
    content = good(messages.VALIDATE, adapter)
    add(content, messages.CONFIG, ConfigRecord({messages.AUDIT: text}))
    assert error_in(pass_guard(tmp_path, request(messages.VALIDATE), content)) == REFUSED


def test_a_line_is_short_whatever_the_message_holds(tmp_path: Path) -> None:
    message = request(messages.VALIDATE)
    config = message.content.config_records[messages.CONFIG]
    config["profile"] = "x" * 10**6
    config["y" * 10**5] = b"z" * 10**6
    message.content["many"] = ConfigRecord({f"key{number}": 1 for number in range(3000)})
    message.content["long"] = MetricRecord({"list": [0.5] * 10**5})
    zeros = Array(np.zeros(1, np.float32))
    message.content["arrays"] = ArrayRecord({f"{'w' * 500}{n}": zeros for n in range(1100)})
    pass_guard(tmp_path, message, Failure(CANNOT).to_record())
    came, _ = log_of(tmp_path)
    assert len(json.dumps(came)) < 10**6
    assert came["more"] == ["arrays", "config"]
    assert (len(came["arrays"]), len(came["config"]["many"]) > 500) == (1000, True)
    assert came["metrics"]["long"]["list"] == [*[0.5] * 20, "… 100000 items"]
    assert came["sha256"] == message.content.object_id
