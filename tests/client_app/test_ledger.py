"""A site answers every question of a run once, in order and within a budget."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict

from client_app import ledger
from client_app.guard import guard
from client_app.ledger import KEPT_ROUNDS, load_reply, save_reply
from client_app.settings import LimitError, SiteSettings
from common import messages, records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.messages import ANSWERED, CANNOT, Failure, Request, Update, Validation
from common.model import build_unet, save_base
from common.options import Value
from tests.conftest import SMALL, MakeAdapter

RANK = 3
FEATURES = ",".join(map(str, SMALL))


class Hospital:
    """A site whose app answers something new every time it is called."""

    def __init__(self, folder: Path, trained: Callable[[int], Adapter], **limits: Value) -> None:
        save_base(build_unet(SMALL), folder / "base")
        self.folder = folder
        self.trained = trained
        self.served = 0
        self.fails = False
        own = {key.replace("_", "-"): value for key, value in limits.items()}
        self.node: dict[str, Value] = {
            "site": "GE",
            "base-model": str(folder / "base"),
            "cache-dir": str(folder / "cache"),
            "audit-log": str(folder / "audit.jsonl"),
            "approve": "any",
            **own,
        }

    def serve(self, _: SiteSettings, request: Request) -> RecordDict:
        self.served += 1
        if self.fails:
            raise LimitError("this site does not serve train")
        dice = self.served / 1000
        match request:
            case messages.Train():
                return Update(self.trained(self.served), 9, 0.5, dice).to_record()
            case messages.Validate():
                return Validation(dice, 5, (dice,) * len(request.others)).to_record()
            case messages.Test():
                scores = {**dict.fromkeys(messages.SCORES, dice), "test.hd95_mm.RV": math.nan}
                return messages.TestScores(5, scores).to_record()
        return messages.Description("GE", "ab" * 32, self.served).to_record()

    def send(
        self,
        kind: str,
        server_round: int = 0,
        adapter: Adapter | None = None,
        *,
        run: str = "a1",
        others: int = 0,
        **keys: Value,
    ) -> RecordDict:
        flat: dict[str, Value] = {"features": FEATURES, "rounds": 9}
        flat |= {k.replace("_", "-"): v for k, v in keys.items()}
        arrays = None if adapter is None else records.adapter_to_record(adapter)
        made = messages.REQUESTS[kind](
            RunConfig.from_flat(flat),
            run,
            server_round,
            RANK if arrays else 0,
            adapter=arrays,
            others=(arrays,) * others if arrays else (),
        )
        message = Message(made.to_record(), dst_node_id=7, message_type=kind)
        reply = guard(message, Context(1, 7, self.node, RecordDict(), {}), self.serve)
        return messages.unsealed(reply.content)[0]  # the log has grown since

    def says(self, *what: object, **keys: object) -> str:
        """Return the sentence in which the site declines; "" where it answers."""
        failure = Failure.found_in(self.send(*what, **keys))  # type: ignore[arg-type]
        return "" if failure is None else failure.reason

    def files(self, ending: str) -> list[Path]:
        return sorted((self.folder / "cache").rglob(f"*{ending}"))


@pytest.fixture
def hospital(tmp_path: Path, make_adapter: MakeAdapter) -> Hospital:
    return Hospital(tmp_path, lambda seed: make_adapter(RANK, seed=seed))


@pytest.fixture
def adapter(make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(RANK)


@pytest.fixture
def other(make_adapter: MakeAdapter) -> Adapter:
    return make_adapter(RANK, seed=99)


def test_the_identical_request_gets_the_same_bytes(hospital: Hospital, adapter: Adapter) -> None:
    requests = [
        (messages.DESCRIBE, 0, None),
        (messages.VALIDATE, 0, None),
        (messages.TRAIN, 1, adapter),
        (messages.VALIDATE, 1, adapter),
        (messages.TEST, 2, adapter),
    ]
    first = [hospital.send(*request, rounds=2).object_id for request in requests]
    assert len(set(first)) == hospital.served == len(requests)
    resumed: dict[str, Value] = {"resume": True, "run_dir": "/elsewhere", "threads": 2}
    for keys in ({"rounds": 2}, {"rounds": 2, **resumed}):
        again = [hospital.send(*request, **keys).object_id for request in requests]
        assert again == first
    assert hospital.served == len(requests)


def test_another_request_for_a_round_that_was_answered_is_refused(
    hospital: Hospital, adapter: Adapter, other: Adapter
) -> None:
    assert hospital.says(messages.TRAIN, 1, adapter) == ""
    assert hospital.says(messages.TRAIN, 1, other) == ANSWERED
    assert hospital.says(messages.VALIDATE, 1, adapter) == ""
    assert hospital.says(messages.VALIDATE, 1, other) == ANSWERED
    assert hospital.says(messages.TRAIN, 2, other) == ""
    assert hospital.served == 3


def test_a_round_out_of_order_is_refused(hospital: Hospital, adapter: Adapter) -> None:
    assert hospital.says(messages.TRAIN, 4, adapter) == ""  # a site that was away until then
    assert hospital.says(messages.TRAIN, 3, adapter) == ANSWERED
    assert hospital.says(messages.VALIDATE, 3, adapter) == ANSWERED
    assert hospital.says(messages.VALIDATE, 5, adapter) == ""
    assert hospital.says(messages.TRAIN, 5, adapter) == ANSWERED
    assert hospital.says(messages.TEST, 9, adapter) == ""
    assert hospital.says(messages.VALIDATE, 9, adapter) == ANSWERED
    assert hospital.says(messages.TRAIN, 9, adapter) == ANSWERED
    assert hospital.says(messages.TRAIN, 1, adapter, run="a2") == ""  # another run


@pytest.mark.parametrize(
    ("kind", "number", "sent", "keys", "word"),
    [
        (messages.TRAIN, 10, True, {}, "train"),
        (messages.TRAIN, 0, True, {}, "train"),
        (messages.VALIDATE, 10, True, {}, "validate"),
        (messages.VALIDATE, 0, True, {}, "validate"),  # only the base is rated before round 1
        (messages.VALIDATE, 1, True, {"others": 1}, "validate"),
        (messages.VALIDATE, 1, True, {"rating": "none"}, "validate"),
        (messages.TEST, 1, True, {}, "test"),
    ],
)
def test_what_the_run_does_not_ask_for_is_not_answered(
    hospital: Hospital,
    adapter: Adapter,
    kind: str,
    number: int,
    sent: bool,
    keys: dict[str, object],
    word: str,
) -> None:
    said = hospital.says(kind, number, adapter if sent else None, **keys)
    assert said == f"this run does not ask for a {word} of round {number}"
    assert hospital.served == 0


def test_the_budget_of_a_run_ends(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(RANK)

    def limited(name: str, **limits: Value) -> Hospital:
        folder = tmp_path / name
        folder.mkdir()
        return Hospital(folder, lambda seed: make_adapter(RANK, seed=seed), **limits)

    few = limited("messages", max_messages=3)
    assert [few.says(messages.TRAIN, 1, adapter) for _ in range(3)] == ["", "", ""]
    assert few.says(messages.TRAIN, 1, adapter) == "4 messages are asked, this site allows 3"
    assert few.says(messages.TRAIN, 1, adapter, run="a2") == ""
    short = limited("rounds", max_rounds=8)
    assert short.says(messages.DESCRIBE) == "9 rounds are asked, this site allows 8"
    rates = limited("others", max_others=2)
    others = {"rating": "search", "others": 3}
    said = "3 adapters to rate are asked, this site allows 2"
    assert rates.says(messages.VALIDATE, 1, adapter, **others) == said
    assert rates.says(messages.VALIDATE, 1, adapter, **{**others, "others": 2}) == ""
    assert (few.served, short.served, rates.served) == (2, 0, 1)


def test_bytes_that_would_exceed_the_budget_are_not_even_computed(
    tmp_path: Path, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(RANK)
    monkeypatch.setattr(ledger, "MIB", adapter.payload_bytes)  # a MiB that is soon reached
    hospital = Hospital(tmp_path, lambda seed: make_adapter(RANK, seed=seed), max_mib_out=2)
    assert [hospital.says(messages.TRAIN, number, adapter) for number in (1, 2)] == ["", ""]
    said = "3 MiB are asked, this site allows 2"
    assert hospital.says(messages.TRAIN, 3, adapter) == said
    assert hospital.says(messages.VALIDATE, 3, adapter) == ""
    assert hospital.served == 3


def test_a_failure_answers_nothing(hospital: Hospital, adapter: Adapter, other: Adapter) -> None:
    hospital.fails = True
    assert hospital.says(messages.TRAIN, 1, adapter) == "this site does not serve train"
    hospital.fails = False
    assert hospital.says(messages.TRAIN, 1, other) == ""


def test_a_reply_that_is_damaged_or_gone_is_not_made_anew(
    hospital: Hospital, adapter: Adapter
) -> None:
    hospital.send(messages.TRAIN, 1, adapter)
    hospital.send(messages.VALIDATE, 1, adapter)
    trained = hospital.files("reply-train-000001.safetensors")[0]
    whole = bytearray(trained.read_bytes())
    whole[-1] ^= 1
    trained.write_bytes(bytes(whole))
    assert hospital.says(messages.TRAIN, 1, adapter) == CANNOT
    hospital.files("reply-evaluate-000001.safetensors")[0].unlink()
    assert hospital.says(messages.VALIDATE, 1, adapter) == CANNOT
    assert hospital.says(messages.TRAIN, 2, adapter) == ""
    assert hospital.served == 3


def test_with_a_damaged_ledger_nothing_of_the_run_is_answered(
    hospital: Hospital, adapter: Adapter
) -> None:
    hospital.send(messages.TRAIN, 5, adapter)
    (path,) = [path for path in hospital.files(".json") if path.parent.name == "ledger"]
    text = path.read_text("utf-8")
    for damaged in (text.replace('"server-round": 5', '"server-round": 0'), "{}", "[1, 2]", ""):
        path.write_text(damaged, "utf-8")
        assert hospital.says(messages.TRAIN, 6, adapter) == CANNOT
    path.write_text(text, "utf-8")
    assert hospital.says(messages.TRAIN, 6, adapter) == ""


def test_a_reply_that_cannot_be_stored_does_not_leave(hospital: Hospital, adapter: Adapter) -> None:
    (hospital.folder / "cache").mkdir()
    (hospital.folder / "cache" / "memory").touch()
    assert hospital.says(messages.TRAIN, 1, adapter) == CANNOT
    assert hospital.served == 1


def test_the_replies_of_the_last_rounds_are_kept(hospital: Hospital, adapter: Adapter) -> None:
    first = [hospital.send(messages.TRAIN, number, adapter).object_id for number in range(1, 8)]
    kept = [path.name for path in hospital.files(".safetensors")]
    assert kept == [f"reply-train-{number:06d}.safetensors" for number in range(4, 8)]
    assert len(kept) == KEPT_ROUNDS
    again = [hospital.send(messages.TRAIN, number, adapter) for number in range(1, 8)]
    assert [reply.object_id for reply in again[3:]] == first[3:]
    assert {Failure.found_in(reply) for reply in again[:3]} == {Failure(ANSWERED)}


def test_a_site_describes_itself_once_in_a_run(hospital: Hospital) -> None:
    """Counts that change from one day to the next would tell of single patients."""
    first = hospital.send(messages.DESCRIBE)
    assert hospital.send(messages.DESCRIBE, 3).object_id == first.object_id
    assert hospital.send(messages.DESCRIBE, run="a2").object_id != first.object_id


def test_a_stored_reply_is_read_as_it_was(tmp_path: Path, adapter: Adapter) -> None:
    reply = Update(adapter, 9, 0.1, 2.0, 1 / 3).to_record()
    reply.metric_records["metrics"]["undefined"] = math.nan
    save_reply(tmp_path / "reply.safetensors", reply)
    found = load_reply(tmp_path / "reply.safetensors")
    assert found.object_id == reply.object_id
    assert isinstance(found["metrics"], MetricRecord)
    assert isinstance(found["metrics"]["num-examples"], int)
    (tmp_path / "reply.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="not a reply of this site"):
        load_reply(tmp_path / "reply.safetensors")
