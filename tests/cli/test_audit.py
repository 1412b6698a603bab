"""The summary of an audit log counts every message and byte in it."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cli.audit import audit, summarise
from client_app.audit import read_audit
from common import messages
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
    assert sent.names == {"num-examples", "loss", "seconds", "start-dice"}
    total = sum(t.message_bytes for t in summary.traffic.values())
    passed = [line for line in read_audit(log) if line["verdict"] == "passed"]
    assert total == sum(line["message_bytes"] for line in passed) > 0


def test_what_was_stopped_is_listed_and_counts_as_nothing_sent(log: Path) -> None:
    stopped = summarise(read_audit(log)).traffic["11", "evaluate", "out"]
    assert (stopped.messages, stopped.refused) == (1, 1)
    assert stopped.names == {"dice", "num-examples"}
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
