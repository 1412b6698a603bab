"""Replies that the server accepts, and why it refuses the others."""

import math
from collections.abc import Callable
from functools import partial

import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from common import messages, records
from common.adapter import Adapter
from common.messages import (
    Description,
    Reader,
    ReplyError,
    Update,
    Validation,
    audit_hash,
    payload,
    read_reply,
)
from common.method import MethodConfig
from strategies import aggregation
from strategies.aggregation import Shapes
from strategies.state import RunState
from tests.conftest import adapter_of
from tests.strategies.fakes import SHAPES, random_adapter, same_bits

GOOD = random_adapter(3, rank=2)
Number = int | float | list[int] | list[float]
NUMBERS: dict[str, Number] = {"num-examples": 12, "loss": 0.25, "seconds": 1.5}


def read_update(message: Message, read: Reader) -> Update:
    return read_reply(message, partial(Update.from_record, read=read))


def read_validation(message: Message, others: int = 0) -> Validation:
    return read_reply(message, partial(Validation.from_record, others=others))


def read_test(message: Message) -> messages.TestScores:
    return read_reply(message, messages.TestScores.from_record)


def read_description(message: Message) -> Description:
    return read_reply(message, Description.from_record)


def reader(rank: int, scale: float = 1.0) -> Reader:
    """Return a reader of whole adapters of a rank."""
    state = RunState(Adapter(random_adapter(0, 4).layers, scale))
    return aggregation.reader(state, MethodConfig(), Shapes(SHAPES, {}), rank, server_round=1)


READERS: list[Callable[[Message], object]] = [
    lambda message: read_update(message, reader(2)),
    read_validation,
    read_test,
    read_description,
]


def order() -> Message:
    return Message(RecordDict(), dst_node_id=7, message_type="train")


def reply(**content: ArrayRecord | MetricRecord | ConfigRecord) -> Message:
    return Message(RecordDict(dict(content)), reply_to=order())


def update(arrays: ArrayRecord | None = None, /, **numbers: Number) -> Message:
    metrics = {**NUMBERS, **{key.replace("_", "-"): value for key, value in numbers.items()}}
    arrays = records.adapter_to_record(GOOD) if arrays is None else arrays
    return reply(adapter=arrays, metrics=MetricRecord(metrics))


def arrays(changes: dict[str, Tensor | None]) -> ArrayRecord:
    """Return the good adapter's record with some tensors replaced, or left out."""
    found: dict[str, Tensor | None] = {**GOOD.tensors(), **changes}
    return records.tensors_to_record({k: v for k, v in found.items() if v is not None})


def value(name: str) -> Tensor:
    return GOOD.tensors()[name].clone()


def poisoned(number: float) -> Tensor:
    broken = value("head.lora_B")
    broken[1, 1] = number
    return broken


def test_a_good_update_is_read_whole() -> None:
    found = read_update(update(start_dice=0.75, local_dice=0.5), reader(2))
    assert same_bits(found.parameters, GOOD)
    assert (found.examples, found.loss, found.seconds) == (12, 0.25, 1.5)
    assert (found.start_dice, found.local_dice) == (0.75, 0.5)
    bare = read_update(update(), reader(2))
    assert (bare.start_dice, bare.local_dice) == (None, None)


def test_the_hash_of_the_sites_audit_log_comes_beside_any_reply() -> None:
    described = reply(metrics=MetricRecord({"train-examples": 9}))
    described.content[messages.CONFIG] = ConfigRecord({"site": "GE", "base-sha256": "ab" * 32})
    failed = Message(messages.Failure(messages.UNEXPECTED).to_record(), reply_to=order())
    for message in (update(), described, failed):
        assert audit_hash(message) == ""
        before = message.content.object_id
        messages.seal(message.content, "cd" * 32)
        assert audit_hash(message) == "cd" * 32
        assert messages.unsealed(message.content)[0].object_id == before
    assert read_update(sealed(update(), "cd" * 32), reader(2)).examples == 12
    assert read_description(described).name == "GE"
    with pytest.raises(ReplyError, match=f"^{messages.UNEXPECTED}$"):
        read_description(failed)


@pytest.mark.parametrize("text", ["", "cd" * 31, "CD" * 32, "cd" * 32 + "\n", "x" * 10_000])
def test_a_hash_that_is_none_is_refused(text: str) -> None:
    message = sealed(update(), text)
    assert audit_hash(message) == ""
    with pytest.raises(ReplyError, match="audit does not match"):
        read_update(message, reader(2))


def sealed(message: Message, text: str) -> Message:
    message.content[messages.CONFIG] = ConfigRecord({messages.AUDIT: text})
    return message


@pytest.mark.parametrize("read", READERS)
def test_an_error_reply_gives_its_last_line(read: Callable[[Message], object]) -> None:
    reason = "Traceback (most recent call last):\n  …\nRuntimeError: out of memory\n"
    with pytest.raises(ReplyError, match=r"^RuntimeError: out of memory$"):
        read(Message(Error(0, reason), reply_to=order()))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("reason", [None, "", "\n"])
def test_an_error_reply_without_a_reason_gives_its_code(
    read: Callable[[Message], object], reason: str | None
) -> None:
    with pytest.raises(ReplyError, match=r"^error code 3$"):
        read(Message(Error(3, reason), reply_to=order()))


@pytest.mark.parametrize("read", READERS)
def test_what_a_site_says_is_wrong_is_the_reason(read: Callable[[Message], object]) -> None:
    config = ConfigRecord({messages.ERROR: "/data: no such folder"})
    with pytest.raises(ReplyError, match=r"^/data: no such folder$"):
        read(reply(config=config, metrics=MetricRecord(NUMBERS)))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("text", ["x" * 10**6, "no\nWARNING: \x1b]0;mine\x07 \u202eA\r" * 1000])
def test_what_a_site_says_is_cut_and_cleaned(read: Callable[[Message], object], text: str) -> None:
    """Wherever it says it: in a sentence, in Flower's error, in a key or a value."""
    said = [
        reply(config=ConfigRecord({messages.ERROR: text})),
        Message(Error(1, text), reply_to=order()),
        reply(**{text: MetricRecord(NUMBERS)}),
        reply(metrics=MetricRecord({text: 1})),
        reply(config=ConfigRecord({"site": text, "base-sha256": text}), metrics=MetricRecord({})),
    ]
    for message in said:
        with pytest.raises(ReplyError) as caught:
            read(message)
        assert len(str(caught.value)) <= 300
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("read", READERS)
def test_an_empty_reply_is_refused(read: Callable[[Message], object]) -> None:
    with pytest.raises(ReplyError, match="the reply"):
        read(reply())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head.lora_B": poisoned(math.nan)}, "head.lora_B has values that are not finite"),
        ({"head.lora_B": poisoned(math.inf)}, "head.lora_B has values that are not finite"),
        (
            {"head.lora_A": value("head.lora_A").double()},
            "head.lora_A is float64, expected float32",
        ),
        (
            {"head.lora_A": value("head.lora_A").int()},
            "head.lora_A is int32, expected float32",
        ),
        (
            {"head.lora_A": value("head.lora_A")[:, :4].contiguous()},
            r"layer head: shape \(3, 4\), expected \(3, 5\)",
        ),
        (
            {"head.lora_B": value("head.lora_B")[:2]},
            r"layer head: shape \(2, 5\), expected \(3, 5\)",
        ),
        ({"head.lora_A": value("head.lora_A")[0]}, r"unexpected tensor .* of shape \(5,\)"),
        (
            {"head.lora_A": value("head.lora_A")[:1]},
            r"expected one rank in all layers, found \[1, 2\]",
        ),
        ({"head.lora_A": None}, "head.lora_A is missing"),
        ({"head.lora_A": None, "head.lora_B": None}, r"layer head is missing \(1 in all\)"),
        ({"head.bias": value("head.lora_B")}, "unexpected tensor head.bias"),
        (
            {
                "tail.lora_A": value("head.lora_A"),
                "tail.lora_B": value("head.lora_B"),
            },
            "layer tail is not in the model",
        ),
        (dict.fromkeys(GOOD.tensors()), "the adapter is empty"),
    ],
)
def test_an_adapter_that_is_not_as_agreed_is_refused(
    changes: dict[str, Tensor | None], reason: str
) -> None:
    with pytest.raises(ReplyError, match=reason):
        read_update(update(arrays(changes)), reader(2))


def test_an_adapter_of_another_rank_is_refused() -> None:
    with pytest.raises(ReplyError, match=r"^rank 2, expected 4$"):
        read_update(update(), reader(4))


def test_an_update_without_an_adapter_is_refused() -> None:
    with pytest.raises(ReplyError, match=r"^the reply has no adapter$"):
        read_update(reply(metrics=MetricRecord(NUMBERS)), reader(2))
    with pytest.raises(ReplyError, match=r"^the reply has no adapter$"):
        read_update(reply(adapter=MetricRecord(), metrics=MetricRecord(NUMBERS)), reader(2))


def test_an_update_without_metrics_is_refused() -> None:
    with pytest.raises(ReplyError, match=r"^the reply has no metrics$"):
        read_update(reply(adapter=records.adapter_to_record(GOOD)), reader(2))


@pytest.mark.parametrize("key", ["num-examples", "seconds"])
def test_every_number_is_needed(key: str) -> None:
    numbers = {k: v for k, v in NUMBERS.items() if k != key}
    message = reply(adapter=records.adapter_to_record(GOOD), metrics=MetricRecord(numbers))
    with pytest.raises(ReplyError, match=f"^{key} is None, expected a number$"):
        read_update(message, reader(2))


@pytest.mark.parametrize(
    ("key", "number", "reason"),
    [
        ("num_examples", 0, "num-examples is 0, expected at least 1"),
        ("num_examples", -5, "num-examples is -5, expected at least 1"),
        ("num_examples", math.inf, "num-examples is inf, expected a finite number"),
        ("num_examples", [1, 2], r"num-examples is \[1, 2\], expected a number"),
        ("loss", math.nan, "loss is nan, expected a finite number"),
        ("start_dice", 1.5, "start-dice is 1.5, expected a Dice between 0 and 1"),
        ("local_dice", -0.5, "local-dice is -0.5, expected a Dice between 0 and 1"),
        ("start_dice", math.nan, "start-dice is nan, expected a finite number"),
    ],
)
def test_numbers_out_of_range_are_refused(
    key: str, number: int | float | list[int], reason: str
) -> None:
    with pytest.raises(ReplyError, match=f"^{reason}$"):
        read_update(update(**{key: number}), reader(2))


@pytest.mark.parametrize("dice", [0, 0.0, 0.25, 1, 1.0])
def test_a_validation_is_a_dice(dice: float) -> None:
    assert read_validation(reply(metrics=MetricRecord({"dice": dice}))).dice == dice


@pytest.mark.parametrize(
    ("dice", "reason"),
    [
        (math.nan, "dice is nan, expected a finite number"),
        (-math.inf, "dice is -inf, expected a finite number"),
        (1.0001, "dice is 1.0001, expected a Dice between 0 and 1"),
        (-0.1, "dice is -0.1, expected a Dice between 0 and 1"),
        ([0.5], r"dice is \[0.5\], expected a number"),
    ],
)
def test_other_validations_are_refused(dice: float | list[float], reason: str) -> None:
    with pytest.raises(ReplyError, match=f"^{reason}$"):
        read_validation(reply(metrics=MetricRecord({"dice": dice})))


SCORES: dict[str, Number] = dict.fromkeys(messages.SCORES, 0.5)


def test_test_scores_may_be_undefined_but_are_numbers() -> None:
    numbers = {**SCORES, "cases": 2, "test.hd95_mm.RV": math.nan}
    found = read_test(reply(metrics=MetricRecord(numbers)))
    assert found.cases == 2
    assert math.isnan(found.scores["test.hd95_mm.RV"])
    with pytest.raises(ReplyError, match=r"cases is .* expected a number"):
        read_test(reply(metrics=MetricRecord({"cases": [2]})))


@pytest.mark.parametrize("key", ["cases", *messages.SCORES])
def test_every_test_score_is_needed(key: str) -> None:
    numbers = {k: v for k, v in {**SCORES, "cases": 2}.items() if k != key}
    with pytest.raises(ReplyError, match=f"^{key} is None, expected a number$"):
        read_test(reply(metrics=MetricRecord(numbers)))


def description(**changes: str | int | None) -> Message:
    facts: dict[str, str | int | None] = {
        "site": "GE",
        "base-sha256": "ab" * 32,
        "train-examples": 9,
        "val-cases": 1,
    }
    facts.update({key.replace("_", "-"): value for key, value in changes.items()})
    texts = {key: value for key, value in facts.items() if isinstance(value, str)}
    counts = {key: value for key, value in facts.items() if isinstance(value, int)}
    return reply(config=ConfigRecord(dict(texts)), metrics=MetricRecord(dict(counts)))


def test_a_description_is_read_whole() -> None:
    assert read_description(description()) == Description("GE", "ab" * 32, 9, val_cases=1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"site": None},
            "site is None, expected 1 to 100 printable letters without a space at either end",
        ),
        (
            {"site": 3},
            "site is None, expected 1 to 100 printable letters without a space at either end",
        ),
        ({"base_sha256": None}, "base-sha256 is None, expected a SHA-256"),
        ({"train_examples": None}, "train-examples is None, expected a number"),
        ({"train_examples": "9"}, "config 'train-examples' is not on the list"),
        ({"train_examples": 0}, "the site has no training examples"),
    ],
)
def test_a_description_that_leaves_something_out_is_refused(
    changes: dict[str, str | int | None], reason: str
) -> None:
    with pytest.raises(ReplyError, match=f"^{reason}$"):
        read_description(description(**changes))


def test_the_payload_is_the_bytes_of_the_arrays() -> None:
    numbers = sum(2 * (c_out + fan_in) for c_out, fan_in in SHAPES.values())
    assert payload(update()) == 4 * numbers
    assert payload(reply(metrics=MetricRecord(NUMBERS))) == 0
    assert payload(Message(Error(1, "x"), reply_to=order())) == 0


def test_scale_is_the_runs_not_the_sites() -> None:
    assert adapter_of(read_update(update(), reader(2, 0.5)).parameters).scale == 0.5
