"""A hospital answers only runs that it approved, each with the configuration that it approved."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict

from client_app import approval
from client_app.approval import COVERED, MOST_PENDING, Approvals, Proposal
from client_app.guard import guard
from client_app.settings import SiteSettings
from common import messages
from common.config import RunConfig
from common.errors import UserError
from common.messages import CANNOT, NOT_APPROVED, Description, Failure, Request
from common.model import build_unet, save_base
from common.options import Value, keys_of
from tests.conftest import SMALL

BASE = "ab" * 32
ANSWER = Description("GE", BASE, 9, 8, 2, 2)
OTHER: dict[str, Value] = {
    "features": "8,16,32,64,128,16",
    "ranks": "equal",
    "split-by": "CENTRE",
    "validate-on": "SEX=F",
    "base-sha256": "cd" * 32,
    "image-size": 128,
    "min-sites": 1,
    "sites": 4,
    "norm-bound": 2.0,
    "rating-check": 2.0,
}
"""Another value of each key that has no choices and no free range."""


@pytest.fixture
def node(tmp_path: Path) -> dict[str, Value]:
    """Return the node configuration of a hospital that is asked for its approval."""
    save_base(build_unet(SMALL), tmp_path / "base")
    return {
        "site": "GE",
        "base-model": str(tmp_path / "base"),
        "cache-dir": str(tmp_path / "cache"),
        "audit-log": str(tmp_path / "audit.jsonl"),
    }


def ask(node: dict[str, Value], run: str = "a1", **keys: Value) -> str:
    """Send a DESCRIBE; return the sentence of the reply, or "" where the site described itself."""
    flat = {key.replace("_", "-"): value for key, value in keys.items()}
    config = RunConfig.from_flat({"features": ",".join(map(str, SMALL)), **flat})
    content = messages.Describe(config, run).to_record()
    message = Message(content, dst_node_id=7, message_type=messages.DESCRIBE)
    context = Context(1, 7, node, RecordDict(), {})
    reply = guard(message, context, lambda *_: ANSWER.to_record())
    failure = Failure.found_in(reply.content)
    if failure is None:
        return ""
    assert set(reply.content) == {messages.CONFIG}  # no number beside the sentence
    assert (failure.site == "GE") == (failure.reason == NOT_APPROVED)
    return failure.reason


def approvals(node: dict[str, Value]) -> Approvals:
    return Approvals(SiteSettings.from_node(node))


def test_nothing_but_a_sentence_leaves_until_the_hospital_approves(
    node: dict[str, Value], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(node, learning_rate=0.05) == NOT_APPROVED
    assert ask(node, learning_rate=0.05) == NOT_APPROVED
    (proposal,) = approvals(node).all()
    shown = capsys.readouterr().out
    assert shown.count(f"rate-my-lora approve {proposal.code}") == 1
    for words in (
        proposal.hash,
        "run a1",
        "learning-rate = 0.05",
        "KiB of tensors",
        "8, by 2 to 3",
    ):
        assert words in shown
    approvals(node).approve(proposal.code)
    assert ask(node, learning_rate=0.05) == ""
    approvals(node).withdraw(proposal.code)
    assert ask(node, learning_rate=0.05) == NOT_APPROVED
    approvals(node).approve(proposal.code)
    assert ask(node, learning_rate=0.05) == ""


def test_an_approval_is_of_one_run_with_one_configuration(node: dict[str, Value]) -> None:
    ask(node)
    approvals(node).approve(approvals(node).all()[0].code)
    assert ask(node) == ""
    assert ask(node, "a2") == NOT_APPROVED
    assert ask(node, seed=1) == NOT_APPROVED
    assert ask(node, rounds=9) == NOT_APPROVED
    assert ask(node, threads=3, run_dir="/elsewhere", resume=True) == ""  # not what leaves
    save_base(build_unet(SMALL), Path(str(node["base-model"])))  # of other random weights
    assert ask(node) == NOT_APPROVED
    assert len(approvals(node).all()) == 5


@pytest.mark.parametrize("key", RunConfig.keys())
def test_the_hash_covers_every_key_that_changes_what_leaves(key: str) -> None:
    def hashed(**keys: Value) -> str:
        """Return the hash of a configuration, whose keys may contradict each other."""
        flat = {**RunConfig().to_flat(), **keys}
        request = Request(RunConfig(), "a1")
        object.__setattr__(request, "config", Flat(flat))
        return Proposal.of(request, BASE).hash

    spec, before = keys_of(RunConfig)[key], RunConfig().to_flat()[key]
    choices = [one for one in spec.metadata["choices"] if one != before]
    if choices:
        value: Value = choices[0]
    elif isinstance(before, bool):
        value = not before
    elif isinstance(before, str):
        value = OTHER.get(key, "other")
    else:
        value = before + 1
    changes = hashed(**{key: value}) != hashed()
    assert changes == (spec.metadata["affects"] in COVERED)


class Flat:
    """A configuration as flat keys."""

    def __init__(self, flat: dict[str, Value]) -> None:
        self.flat = flat

    def to_flat(self) -> dict[str, Value]:
        return self.flat


def test_a_base_that_the_run_does_not_name_is_the_sites_own() -> None:
    unnamed = Proposal.of(Request(RunConfig(), "a1"), BASE)
    named = Proposal.of(Request(replace(RunConfig(), base_sha256=BASE.upper()), "a1"), "cd" * 32)
    other = Proposal.of(Request(RunConfig(), "a1"), "cd" * 32)
    assert unnamed.hash == named.hash != other.hash


def test_a_listed_configuration_is_approved_for_one_run(node: dict[str, Value]) -> None:
    ask(node)
    hashed = approvals(node).all()[0].hash
    listed = {**node, "approve": "listed", "approved": f"{'0' * 64}, {hashed.upper()}"}
    assert ask(listed, "a2") == ""
    assert ask(listed, "a2") == ""
    assert ask(listed, "a3") == NOT_APPROVED  # it would get the answers once more
    assert ask(listed, "a4", seed=1) == NOT_APPROVED
    code = next(one.code for one in approvals(node).all() if one.run == "a3")
    approvals(node).approve(code)
    assert ask(listed, "a3") == ""


def test_a_withdrawn_run_stays_withdrawn_where_its_configuration_is_listed(
    node: dict[str, Value],
) -> None:
    ask(node)
    (proposal,) = approvals(node).all()
    approvals(node).withdraw(proposal.code)
    listed = {**node, "approve": "listed", "approved": proposal.hash}
    assert ask(listed) == NOT_APPROVED
    assert ask(listed, "a2") == NOT_APPROVED
    assert ask({**node, "approve": "any"}) == NOT_APPROVED


def test_where_any_run_is_answered_none_changes_its_configuration(node: dict[str, Value]) -> None:
    anyone = {**node, "approve": "any"}
    assert ask(anyone) == ""
    assert ask(anyone, seed=1) == NOT_APPROVED
    assert ask(anyone, "a2", seed=1) == ""


@pytest.mark.parametrize("run", ["", " ", "x" * 101, "a\x1b[2K", "a\nrun b", "a\u202eb"])
def test_a_run_without_a_sound_id_is_not_even_kept(node: dict[str, Value], run: str) -> None:
    assert ask(node, run) == CANNOT
    assert approvals(node).all() == []


def test_however_many_runs_ask_few_are_kept_and_no_decision_is_lost(
    node: dict[str, Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "MOST_PENDING", 5)
    assert MOST_PENDING == 100
    ask(node, "approved")
    kept = approvals(node)
    kept.approve(kept.all()[0].code)
    for number in range(12):
        assert ask(node, f"r{number}") == NOT_APPROVED
        for proposal in kept.all():  # files of one moment have one time
            at = 100 + number if proposal.run == f"r{number}" else None
            path = kept.folder / f"{proposal.code}.json"
            if at is not None:
                os.utime(path, (at, at))
    assert {p.run for p in kept.all()} == {"approved", *(f"r{n}" for n in range(7, 12))}
    assert ask(node, "approved") == ""


def test_a_damaged_file_approves_nothing(node: dict[str, Value]) -> None:
    ask(node)
    kept = approvals(node)
    code = kept.all()[0].code
    kept.approve(code)
    decided, asked = kept.folder / f"{code}.decided", kept.folder / f"{code}.json"
    decided.write_text("approvee\n")
    assert ask(node) == NOT_APPROVED
    asked.write_text(asked.read_text("utf-8").replace('"seed": 0', '"seed": 1'))
    assert kept.all() == []
    asked.write_text("{half")
    with pytest.raises(UserError, match="no run"):
        kept.approve("ffffffffffffffff")
    assert kept.all() == []


@pytest.mark.parametrize("code", ["0123456789abcdef", "../../etc/passwd", "", "A1"])
def test_only_a_run_that_asked_can_be_approved(node: dict[str, Value], code: str) -> None:
    ask(node)
    known = approvals(node).all()[0].code
    with pytest.raises(UserError, match=f"those that did: {known}"):
        approvals(node).approve(code)


def test_sites_that_share_a_cache_approve_each_for_itself(node: dict[str, Value]) -> None:
    other = {**node, "site": "Philips"}
    ask(node)
    approvals(node).approve(approvals(node).all()[0].code)
    assert ask(node) == ""
    assert approvals(other).all() == []


def test_a_flood_of_runs_is_not_printed_for_ever(
    node: dict[str, Value], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "MOST_SHOWN", 3)
    approval._shown.clear()
    names = "Z" * 99_990
    assert {ask(node, f"r{n}", ranks=f"{names}={n + 1}") for n in range(9)} == {NOT_APPROVED}
    shown = capsys.readouterr().out
    assert shown.count("configuration") == 3
    assert shown.count("many runs ask") == 1
    assert len(shown) < 10_000
    assert len(approvals(node).all()) == 9
