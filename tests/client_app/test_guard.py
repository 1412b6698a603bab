"""Nothing leaves a site that is not on the list, and everything is in its own log."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.common import Array
from safetensors.torch import load, save
from torch import Tensor, nn

from client_app.audit import read_audit
from client_app.guard import CANNOT, REFUSED, UNEXPECTED, failure, guard
from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.method import Half
from common.options import Value
from tests.conftest import SMALL, MakeAdapter

RANK = 3
CONFIG = RunConfig.from_flat({"features": ",".join(map(str, SMALL))})
Change = Callable[[RecordDict], object]


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(RANK)


def request(kind: str, adapter: Adapter | None = None, config: RunConfig = CONFIG) -> Message:
    order = records.config_to_record(config, **{"server-round": 4, "site-rank": RANK})
    content = RecordDict({records.CONFIG: order})
    if adapter is not None:
        content[records.ADAPTER] = records.adapter_to_record(adapter)
    return Message(content, dst_node_id=7, message_type=kind)


def good(kind: str, adapter: Adapter) -> RecordDict:
    numbers: dict[str, dict[str, int | float]] = {
        records.DESCRIBE: {"train-examples": 9, "train-cases": 8, "val-cases": 2, "test-cases": 2},
        records.TRAIN: {"num-examples": 9, "loss": 0.5, "seconds": 1.0, "start-dice": 0.5},
        records.VALIDATE: {"dice": 0.5, "num-examples": 2},
        records.TEST: {"cases": 2, "base.dice.LV": 0.5, "test.hd95_mm.mean": 4.0},
    }
    content = RecordDict({records.METRICS: MetricRecord(numbers[kind])})  # type: ignore[arg-type]
    if kind == records.TRAIN:
        content[records.ADAPTER] = records.adapter_to_record(adapter)
    if kind == records.DESCRIBE:
        content[records.CONFIG] = ConfigRecord({"site": "St. Anna", "base-sha256": "ab" * 32})
    return content


def pass_guard(folder: Path, message: Message, content: RecordDict | Message) -> Message:
    node: dict[str, Value] = {"site": "GE", "audit-log": str(folder / "audit.jsonl")}
    context = Context(run_id=11, node_id=7, node_config=node, state=RecordDict(), run_config={})

    def app(message: Message, _: Context) -> Message:
        return content if isinstance(content, Message) else Message(content, reply_to=message)

    return guard(message, context, app)


def log_of(folder: Path) -> list[dict[str, Any]]:
    return [dict(line) for line in read_audit(folder / "audit.jsonl")]


def error_in(reply: Message) -> object:
    config = reply.content[records.CONFIG]
    assert isinstance(config, ConfigRecord)
    return config[records.ERROR]


@pytest.mark.parametrize("kind", [records.DESCRIBE, records.TRAIN, records.VALIDATE, records.TEST])
def test_what_is_called_for_leaves_unchanged(tmp_path: Path, adapter: Adapter, kind: str) -> None:
    content = good(kind, adapter)
    reply = pass_guard(tmp_path, request(kind), content)
    assert reply.content is content
    assert [(line["direction"], line["verdict"]) for line in log_of(tmp_path)] == [
        ("in", "passed"),
        ("out", "passed"),
    ]


def arrays(content: RecordDict) -> ArrayRecord:
    found = content[records.ADAPTER]
    assert isinstance(found, ArrayRecord)
    return found


FIRST = "conv_0.conv_0.conv.lora_A"


def set_tensors(change: Callable[[dict[str, Tensor]], object]) -> Change:
    def changed(content: RecordDict) -> None:
        tensors = records.record_to_tensors(arrays(content))
        change(tensors)
        content[records.ADAPTER] = records.tensors_to_record(tensors)

    return changed


def set_bytes(change: Callable[[bytes], bytes]) -> Change:
    def changed(content: RecordDict) -> None:
        data = change(arrays(content)[records.PACKED].numpy().tobytes())
        array = Array(np.frombuffer(data, np.uint8))
        content[records.ADAPTER] = ArrayRecord({records.PACKED: array})

    return changed


def append_bytes(content: RecordDict) -> None:
    old = arrays(content)[records.PACKED]
    array = Array(old.dtype, old.shape, old.stype, old.data + bytes(1000))
    content[records.ADAPTER] = ArrayRecord({records.PACKED: array})


def relabel(content: RecordDict) -> None:
    """Let the array say of itself what its bytes are not."""
    old = arrays(content)[records.PACKED]
    array = Array("patient 007", old.shape, old.stype, old.data)
    content[records.ADAPTER] = ArrayRecord({records.PACKED: array})


def with_note(data: bytes) -> bytes:
    """Return the same tensors with a note in the header."""
    return save(load(data), {"patient": "007"})


def with_spaces(data: bytes) -> bytes:
    """Return the same tensors with spaces behind the header, whose number could mean something."""
    size = int.from_bytes(data[:8], "little")
    return (size + 8).to_bytes(8, "little") + data[8 : 8 + size] + b" " * 8 + data[8 + size :]


def add(content: RecordDict, key: str, record: Any) -> None:
    content[key] = record


def metric(name: str, value: Any) -> Change:
    def change(content: RecordDict) -> None:
        found = content[records.METRICS]
        assert isinstance(found, MetricRecord)
        found[name] = value

    return change


SMUGGLED: list[tuple[str, str, Change]] = [
    ("an image beside the adapter", records.TRAIN,
     lambda c: arrays(c).update({"image": Array(np.zeros((9, 9), np.float32))})),
    ("another record of arrays", records.TRAIN,
     lambda c: add(c, "more", ArrayRecord({"x": Array(np.zeros(3, np.float32))}))),
    ("arrays in a validation", records.VALIDATE,
     lambda c: add(c, records.ADAPTER, ArrayRecord({"x": Array(np.zeros(3, np.float32))}))),
    ("a factor of another shape", records.TRAIN,
     set_tensors(lambda t: t.update({FIRST: t[FIRST][:-1]}))),
    ("a factor of another type", records.TRAIN,
     set_tensors(lambda t: t.update({FIRST: t[FIRST].double()}))),
    ("a missing factor", records.TRAIN, set_tensors(lambda t: t.pop(FIRST))),
    ("an image among the factors", records.TRAIN,
     set_tensors(lambda t: t.update({"image": torch.zeros(9, 9)}))),
    ("bytes behind the tensors", records.TRAIN, set_bytes(lambda data: data + bytes(1000))),
    ("bytes that are no adapter", records.TRAIN, set_bytes(lambda _: b"123")),
    ("a note beside the tensors", records.TRAIN, set_bytes(with_note)),
    ("bytes behind the array", records.TRAIN, append_bytes),
    ("an array that says it is another", records.TRAIN, relabel),
    ("spaces in the header", records.TRAIN, set_bytes(with_spaces)),
    ("a metric by patient", records.VALIDATE, metric("dice.patient007", 0.5)),
    ("a list of numbers", records.TEST, metric("base.dice.LV", [0.1, 0.9])),
    ("a metric of another request", records.VALIDATE, metric("loss", 0.5)),
    ("free text in a description", records.DESCRIBE,
     lambda c: c.config_records[records.CONFIG].update({"note": "patient 7"})),
    ("a description that is too long", records.DESCRIBE,
     lambda c: c.config_records[records.CONFIG].update({"site": "x" * 200})),
    ("a fingerprint that is none", records.DESCRIBE,
     lambda c: c.config_records[records.CONFIG].update({"base-sha256": "patient 7"})),
    ("free text in training", records.TRAIN,
     lambda c: add(c, records.CONFIG, ConfigRecord({"note": "patient 7"}))),
    ("an error text with a file name", records.TRAIN,
     lambda c: add(c, records.CONFIG, ConfigRecord({records.ERROR: "/data/007.nii.gz is broken"}))),
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
    assert set(reply.content) == {records.CONFIG}
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
        content = good(records.TRAIN, adapter)
        if sent:
            content[records.ADAPTER] = records.halves_to_record(adapter, sent)
        else:
            del content[records.ADAPTER]
        reply = pass_guard(tmp_path, request(records.TRAIN, config=config), content)
        assert (reply.content is content) == (sent == halves), sent


def test_whole_weights_leave_only_where_they_train(tmp_path: Path, unet: nn.Module) -> None:
    flat = {**CONFIG.to_flat(), "trains": "weights", "merge": "pad", "rating": "none"}
    weights = unet.state_dict()
    for config, passes in ((RunConfig.from_flat(flat), True), (CONFIG, False)):
        metrics = {"num-examples": 9, "loss": 0.5, "seconds": 1.0}
        content = RecordDict({records.METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]
        content[records.ADAPTER] = records.tensors_to_record(weights)
        reply = pass_guard(tmp_path, request(records.TRAIN, config=config), content)
        assert (reply.content is content) == passes


@pytest.mark.parametrize(
    ("brought", "told", "passes"), [(2, 2, True), (2, 3, False), (0, 1, False)]
)
def test_a_dice_leaves_for_every_adapter_that_came(
    tmp_path: Path, adapter: Adapter, brought: int, told: int, passes: bool
) -> None:
    message = request(records.VALIDATE, adapter)
    for number in range(1, brought + 1):
        message.content[records.OTHER.format(number)] = records.adapter_to_record(adapter)
    content = good(records.VALIDATE, adapter)
    for number in range(1, told + 1):
        content.metric_records[records.METRICS][f"dice-{number}"] = 0.5
    assert (pass_guard(tmp_path, message, content).content is content) == passes


def test_an_error_with_a_text_beside_data_stays(tmp_path: Path, adapter: Adapter) -> None:
    content = good(records.TRAIN, adapter)
    content[records.CONFIG] = ConfigRecord({records.ERROR: CANNOT})
    assert error_in(pass_guard(tmp_path, request(records.TRAIN), content)) == REFUSED


def test_flowers_own_error_texts_stay(tmp_path: Path) -> None:
    message = request(records.TRAIN)
    reply = Message(Error(0, "FileNotFoundError: /data/patient007"), reply_to=message)
    assert error_in(pass_guard(tmp_path, message, reply)) == REFUSED


@pytest.mark.parametrize("sentence", [CANNOT, UNEXPECTED, "rank 32 is asked, this site allows 16"])
def test_the_few_sentences_leave(tmp_path: Path, sentence: str) -> None:
    reply = pass_guard(tmp_path, request(records.TRAIN), failure(sentence))
    assert error_in(reply) == sentence


@pytest.mark.parametrize(("site", "leaves"), [("St. Anna", True), ("St.\nAnna", False)])
def test_a_site_of_another_version_says_its_name(tmp_path: Path, site: str, leaves: bool) -> None:
    sentence = "the run is of version 0.3.0, this site has version 0.2.0"
    content = failure(sentence)
    content.config_records[records.CONFIG]["site"] = site
    reply = pass_guard(tmp_path, request(records.DESCRIBE), content)
    assert error_in(reply) == (sentence if leaves else REFUSED)
    assert ("site" in reply.content.config_records[records.CONFIG]) == leaves


def test_an_app_that_raises_says_nothing_of_why(tmp_path: Path) -> None:
    def app(_: Message, __: Context) -> Message:
        raise ValueError("patient 007")

    node: dict[str, Value] = {"site": "GE", "audit-log": str(tmp_path / "audit.jsonl")}
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    assert error_in(guard(request(records.TRAIN), context, app)) == UNEXPECTED


def test_the_log_has_every_array_and_byte(tmp_path: Path, adapter: Adapter) -> None:
    content = good(records.TRAIN, adapter)
    pass_guard(tmp_path, request(records.TRAIN, adapter), content)
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
    reply = pass_guard(tmp_path, request(records.TRAIN), good(records.TRAIN, adapter))
    assert error_in(reply) == CANNOT


def test_a_simulated_site_is_guarded_and_keeps_no_log(tmp_path: Path, adapter: Adapter) -> None:
    content = good(records.VALIDATE, adapter)
    metric("dice.patient007", 0.5)(content)
    node: dict[str, Value] = {"partition-id": 0, "num-partitions": 3}
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    message = request(records.VALIDATE)
    reply = guard(message, context, lambda m, _: Message(content, reply_to=m))
    assert error_in(reply) == REFUSED
    assert list(tmp_path.iterdir()) == []


def test_a_broken_log_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text(json.dumps({"direction": "in", "verdict": "passed", "kind": "x"}) + "\n{half")
    with pytest.raises(UserError, match=r"audit\.jsonl: line 2 is not an audit line"):
        list(read_audit(path))
