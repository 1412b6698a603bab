"""The summary of an audit log counts every message and byte in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.audit import audit
from client_app.audit import read_audit
from client_app.audit_history import differences
from client_app.audit_summary import summarise
from common import messages
from common.errors import UserError
from tests.client_app.test_guard import good, metric, pass_guard, request
from tests.conftest import MakeAdapter


@pytest.fixture
def log(tmp_path: Path, make_adapter: MakeAdapter) -> Path:
    """Return a log of two trainings, a validation and one stopped reply."""
    adapter = make_adapter(3)
    for kind in (messages.TRAIN, messages.TRAIN, messages.VALIDATE):
        pass_guard(tmp_path, request(kind, adapter), good(kind, adapter))
    bad = good(messages.VALIDATE, adapter)
    metric("patient007", 0.5)(bad)
    pass_guard(tmp_path, request(messages.VALIDATE), bad)
    return tmp_path / "audit.jsonl"


def invoke(log: Path, *words: str) -> Any:
    app = typer.Typer()
    app.command()(audit)
    return CliRunner().invoke(app, [str(log), *words])


def test_every_byte_of_the_log_is_in_the_summary(log: Path, make_adapter: MakeAdapter) -> None:
    summary = summarise(read_audit(log))
    sent = summary.traffic["11", "train", "out"]
    assert (sent.messages, sent.refused) == (2, 0)
    assert sent.payload_bytes == 2 * make_adapter(3).payload_bytes
    assert sent.names == {"num-examples", "loss", "seconds", "start-dice", "audit"}
    total = sum(t.message_bytes for t in summary.traffic.values())
    passed = [line for line in read_audit(log) if line["verdict"] == "passed"]
    assert total == sum(line["message_bytes"] for line in passed) > 0


def test_what_was_stopped_is_listed_and_counts_as_nothing_sent(log: Path) -> None:
    stopped = summarise(read_audit(log)).traffic["11", "evaluate", "out"]
    assert (stopped.messages, stopped.refused) == (1, 1)
    assert stopped.names == {"dice", "num-examples", "audit"}
    result = invoke(log)
    assert result.exit_code == 1
    assert "'patient007' is not on the list" in result.output


def test_the_summary_as_json(log: Path, tmp_path: Path) -> None:
    out = tmp_path / "summary.json"
    invoke(log, "--json", str(out))
    found = json.loads(out.read_text())
    assert {(row["kind"], row["direction"]) for row in found["traffic"]} == {
        *(("train", "in"), ("train", "out"), ("evaluate", "in"), ("evaluate", "out")),
    }
    assert [refusal["kind"] for refusal in found["refusals"]] == ["evaluate"]


def test_a_clean_log_ends_well(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(3)
    pass_guard(tmp_path, request(messages.TRAIN, adapter), good(messages.TRAIN, adapter))
    assert invoke(tmp_path / "audit.jsonl").exit_code == 0


def test_a_mended_line_is_told_and_counts_as_no_message(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    adapter, path = make_adapter(3), tmp_path / "audit.jsonl"
    pass_guard(tmp_path, request(messages.TRAIN, adapter), good(messages.TRAIN, adapter))
    path.write_bytes(path.read_bytes()[:-100])
    assert "line 2 is cut" in str(invoke(path).exception)
    pass_guard(tmp_path, request(messages.TRAIN, adapter), good(messages.TRAIN, adapter))
    result = invoke(path, "--json", str(tmp_path / "out.json"))
    assert result.exit_code == 0
    assert "mended after a crash: line 2 was cut; its last 100 bytes were restored" in (
        " ".join(result.output.split())
    )
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["messages"] for row in found["traffic"]] == [2, 2]
    assert len(found["mended"]) == 1


def history_of(tmp_path: Path, sealed: str, **facts: Any) -> Path:
    """Write the history of a run of one round, the fourth, with facts of the site GE."""
    history = tmp_path / "history.jsonl"
    base = {"round": 0, "sites": {"GE": {}}}
    line = {"round": 4, "sites": {"GE": facts}, "audit": {"GE": sealed, "Siemens": "a" * 64}}
    history.write_text("".join(json.dumps(one) + "\n" for one in (base, line)))
    return history


@pytest.fixture
def sealed(tmp_path: Path, make_adapter: MakeAdapter) -> str:
    """Write a log of a description, a training and a validation; return the last reply's hash."""
    adapter = make_adapter(3)
    for kind in (messages.DESCRIBE, messages.TRAIN, messages.VALIDATE):
        reply = pass_guard(tmp_path, request(kind, adapter), good(kind, adapter))
    return messages.audit_hash(reply)


def test_a_history_agrees_with_the_log_that_its_replies_came_from(
    tmp_path: Path, sealed: str
) -> None:
    history = history_of(tmp_path, sealed, validation=0.5, loss=0.5, share=0.3)
    result = invoke(tmp_path / "audit.jsonl", "--history", str(history), "--site", "GE")
    assert (result.exit_code, "agrees with the log" in " ".join(result.output.split())) == (0, True)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"validation": 0.75}, "round 4: validation is 0.75 in the history, [0.5] in the log"),
        ({"loss": 0.25}, "round 4: loss is 0.25 in the history, [0.5] in the log"),
    ],
)
def test_a_number_that_the_server_changed_is_found(
    tmp_path: Path, sealed: str, facts: dict[str, float], said: str
) -> None:
    history = history_of(tmp_path, sealed, **facts)
    assert differences(read_audit(tmp_path / "audit.jsonl"), history, "GE") == [said]
    result = invoke(tmp_path / "audit.jsonl", "--history", str(history), "--site", "GE")
    assert (result.exit_code, said in " ".join(result.output.split())) == (1, True)


def test_a_log_that_was_written_anew_is_found(
    tmp_path: Path, sealed: str, make_adapter: MakeAdapter
) -> None:
    log, adapter = tmp_path / "audit.jsonl", make_adapter(3)
    history = history_of(tmp_path, sealed, validation=0.5)
    for path in (log, tmp_path / "audit.jsonl.head"):
        path.unlink()
    for kind in (messages.TRAIN, messages.VALIDATE):
        pass_guard(tmp_path, request(kind, adapter), good(kind, adapter))
    assert invoke(log).exit_code == 0  # by itself it is a good log
    expected = [f"round 4: the history's hash {sealed[:16]}… is not in the log"]
    assert differences(read_audit(log), history, "GE") == expected


def test_a_site_is_looked_for_under_the_name_in_the_log(tmp_path: Path, sealed: str) -> None:
    history = history_of(tmp_path, sealed)
    log = tmp_path / "audit.jsonl"
    with pytest.raises(UserError, match=r"no hash of an audit log of site 'St\. Anna'"):
        differences(read_audit(log), history)
    history.write_text(history.read_text().replace('"GE"', '"St. Anna"'))
    assert differences(read_audit(log), history) == []


@pytest.mark.parametrize("text", ["[]", "{", '{"round": 1}', '{"round": 1, "sites": 3}', "\ud800"])
def test_a_history_that_is_none_is_named(tmp_path: Path, sealed: str, text: str) -> None:
    (tmp_path / "history.jsonl").write_text(text, errors="replace")
    with pytest.raises(UserError, match="line 1 does not describe a round"):
        differences(read_audit(tmp_path / "audit.jsonl"), tmp_path / "history.jsonl", "GE")
