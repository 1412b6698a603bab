"""Messages survive a round trip, and those of another form are refused by name."""

import math
from dataclasses import fields
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, RecordDict

from common import messages, records
from common.config import RunConfig
from common.errors import UserError
from common.messages import ReplyError
from common.method import MethodConfig
from common.weights import Weights
from tests.conftest import MakeAdapter

CONFIG = RunConfig(method=MethodConfig(lambda_0=0.5), seed=4, resume=True)
SHA = "ab" * 32


@pytest.mark.parametrize("kind", messages.REQUESTS)
def test_a_request_comes_back(make_adapter: MakeAdapter, kind: str) -> None:
    one, two, three, *others = (records.adapter_to_record(make_adapter(n)) for n in range(1, 6))
    request = messages.REQUESTS[kind](
        CONFIG, "f00d", 5, 4, 8, 3, 2, one, two, three, others=tuple(others)
    )
    message = Message(request.to_record(), dst_node_id=7, message_type=kind)
    assert messages.read_request(message) == request
    bare = messages.REQUESTS[kind](CONFIG, "f00d")
    message = Message(bare.to_record(), dst_node_id=7, message_type=kind)
    assert messages.read_request(message) == bare


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"lambda-1": 0.3}, "unknown key 'lambda-1'"),
        ({"run-id": 7}, "run-id: found 7 \\(int\\), expected a str"),
        ({"held": "3"}, "held: found '3' \\(str\\), expected a int"),
        ({"server-round": True}, "server-round: found True \\(bool\\), expected a int"),
    ],
)
def test_a_request_of_another_version_is_refused(changes: dict[str, Any], reason: str) -> None:
    content = messages.Train(CONFIG, "f00d").to_record()
    content.config_records[messages.CONFIG].update(changes)
    with pytest.raises(UserError, match=f"^message from the server: {reason}"):
        messages.Train.from_record(content)


@pytest.mark.parametrize("key", ["run-id", "held", "folds"])
def test_a_request_that_leaves_something_out_is_refused(key: str) -> None:
    content = messages.Train(CONFIG, "f00d").to_record()
    del content.config_records[messages.CONFIG][key]
    with pytest.raises(
        UserError, match=f"^message from the server: found no {key!r}, expected one"
    ):
        messages.Train.from_record(content)


def test_a_request_of_an_unknown_kind_is_refused() -> None:
    content = messages.Train(CONFIG, "f00d").to_record()
    with pytest.raises(UserError, match=r"found 'query\.all', expected one of"):
        messages.read_request(Message(content, dst_node_id=7, message_type="query.all"))


def test_replies_come_back(make_adapter: MakeAdapter) -> None:
    description = messages.Description("St. Anna", SHA, 9, 8, 2, 3, max_rank=16)
    assert messages.Description.from_record(description.to_record()) == description
    bare = messages.Description("St. Anna", SHA, 9)
    assert messages.Description.from_record(bare.to_record()) == bare
    for others in ((), (0.25, 0.75)):
        validation = messages.Validation(0.5, 2, others)
        assert messages.Validation.from_record(validation.to_record(), len(others)) == validation
    scores = messages.TestScores(2, dict.fromkeys(messages.SCORES, 0.5))
    assert messages.TestScores.from_record(scores.to_record()) == scores
    update = messages.Update(make_adapter(3), 9, 1.0, 0.5, 0.25, 0.75)
    kept = Weights()
    back = messages.Update.from_record(update.to_record(), lambda _: kept)
    for field in fields(update)[1:]:
        assert getattr(back, field.name) == getattr(update, field.name)


def test_a_dice_that_is_left_out_does_not_move_the_others_up() -> None:
    content = messages.Validation(0.5, 2, (0.25, 0.75)).to_record()
    del content.metric_records[messages.METRICS]["dice-1"]
    with pytest.raises(ReplyError, match="dice-1 is None, expected a number"):
        messages.Validation.from_record(content, 2)


def test_a_name_that_is_not_listed_is_refused() -> None:
    content = messages.Validation(0.5, 2, (0.5,)).to_record()
    with pytest.raises(ReplyError, match="metric 'dice-1' is not on the list"):
        messages.Validation.from_record(content)
    content = messages.TestScores(2, {"base.dice.007": 0.5}).to_record()
    with pytest.raises(ReplyError, match=r"metric 'base\.dice\.007' is not on the list"):
        messages.TestScores.from_record(content)
    content = messages.Validation(0.5, 2).to_record()
    content["more"] = ConfigRecord({"patient": "7"})
    with pytest.raises(ReplyError, match="record 'more' is not on the list"):
        messages.Validation.from_record(content)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (messages.Description("A", SHA, 1, max_rank=0), "max-rank is 0, expected at least 1"),
        (messages.Description("A", SHA, 1, val_cases=-1), "val-cases is -1, expected at least 0"),
        (messages.Validation(0.5, 2, (1.5,)), "dice-1 is 1.5, expected a Dice between 0 and 1"),
        (messages.Validation(0.5, 2.5), "num-examples is 2.5, expected a whole number"),  # type: ignore[arg-type]
        (
            messages.TestScores(2, {"test.dice.LV": 1.5}),
            "test.dice.LV is 1.5, expected a Dice between 0 and 1",
        ),
        (
            messages.TestScores(2, {"test.dice.LV": math.inf}),
            "test.dice.LV is inf, expected a finite number",
        ),
        (
            messages.TestScores(2, {"test.hd95_mm.LV": 1e6}),
            "test.hd95_mm.LV is 1e+06, expected at most 10000",
        ),
        (messages.Description("A", SHA, 10**15), "train-examples is beyond 1000000000"),
        (messages.Validation(0.5, 10**5000), "num-examples is beyond 1000000000"),
        (messages.Update(Weights(), 1, 1e300, 1), "loss is 1e+300, expected at most 1e+09"),
        (messages.Update(Weights(), 1, -1e300, 1), "loss is -1e+300, expected at least -1e+09"),
    ],
)
def test_values_out_of_range_are_refused(reply: messages.Reply, reason: str) -> None:
    with pytest.raises(ReplyError) as caught:
        reply.check()
    assert str(caught.value) == reason


def test_a_failure_says_whether_the_site_lost_what_it_held() -> None:
    lost = messages.Failure(f"{messages.NOT_HELD}its factors of round 3")
    lost.check()
    other = messages.Failure(messages.CANNOT)
    assert (lost.lost, other.lost) == (True, False)
    assert messages.Failure.found_in(lost.to_record()) == lost
    assert messages.Failure.found_in(RecordDict()) is None
    with pytest.raises(ReplyError):
        messages.Failure("/data/007.nii.gz is broken").check()


@pytest.mark.parametrize(("site", "read"), [("St. Anna", "St. Anna"), ("St.\nAnna", ""), ("", "")])
def test_a_failure_names_its_site_if_the_name_may_be_printed(site: str, read: str) -> None:
    found = messages.Failure.found_in(messages.Failure(messages.CANNOT, site).to_record())
    assert found == messages.Failure(messages.CANNOT, read)


def test_no_reply_tells_more_than_three_decimals_of_dice_and_loss_and_one_of_mm() -> None:
    said = [
        messages.Update(Weights(), 6, 1.23456, 7.654321, 0.12345, 0.98765).numbers(),
        messages.Validation(0.12345, 2, (0.98765,)).numbers(),
        messages.TestScores(2, {"base.dice.LV": 0.12345, "test.hd95_mm.mean": 4.5678}).numbers(),
    ]
    sent = [{key: messages.rounded(key, value) for key, value in one.items()} for one in said]
    assert sent == [
        {"num-examples": 6, "loss": 1.235, "seconds": 7.654321}
        | {"start-dice": 0.123, "local-dice": 0.988},
        {"dice": 0.123, "num-examples": 2, "dice-1": 0.988},
        {"cases": 2, "base.dice.LV": 0.123, "test.hd95_mm.mean": 4.6},
    ]
    record = messages.Validation(0.12345, 2, (0.98765,)).to_record().metric_records
    assert dict(record[messages.METRICS]) == sent[1]
