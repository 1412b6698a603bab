"""``watch`` shows what the files of a run say."""

import io
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from cli.watch import watch
from common.errors import UserError
from results.watch import Snapshot, follow, headline, round_line, take_snapshot, view
from server_app.run_dir import RunDir
from server_app.status import Status, StatusFile
from strategies.state import RoundRecord
from tests.server_app.test_run_dir import state


def entry(**facts: Any) -> dict[str, Any]:
    return {"rank": 8, "examples": 40, "loss": 0.25, "penalty": 1.0, "bytes_up": 2**20, **facts}


def play_round(folder: RunDir, number: int, dice: float) -> None:
    sites = {
        "GE": entry(validation=dice, previous=dice - 0.0125, penalty=0.8),
        "[red]Siemens": entry(validation=0.5, previous=0.75, bytes_down=2**21),
    }
    refused = [{"site": "Philips", "phase": "train", "reason": "no answer"}]
    folder.save_round(state(number), RoundRecord(number, 0.2, sites, refused, {"train": 10.0}))


def shown(snapshot: Snapshot, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(view(snapshot, Path("run")))
    return console.export_text()


def test_the_view_has_every_site_with_its_last_round_and_its_traffic(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    status = StatusFile(folder.status, rounds=4)
    play_round(folder, 1, 0.6)
    play_round(folder, 2, 0.7)
    status.phase(3, "train")
    text = shown(take_snapshot(tmp_path))
    assert "round 3/4 · train for 0:00 · about 0:20 left" in text
    (ge,) = (line for line in text.splitlines() if line.startswith("GE"))
    row = "GE 2 8 40 0.250 0.7000 +0.0125 0.800 2.00 0.00"
    assert ge.split() == row.split()
    (siemens,) = (line for line in text.splitlines() if line.startswith("[red]Siemens"))
    assert siemens.split()[-4:] == ["-0.2500", "1.000", "2.00", "4.00"]
    assert "round 2: Philips left out of train: no answer" in text


def test_time_left_counts_what_the_round_has_taken() -> None:
    history = [{"round": t, "seconds": {"train": 60.0}} for t in (0, 1, 2)]
    status = Status(rounds=4, round=3, phase="train", since=100.0, pid=os.getpid())
    assert Snapshot(status, history, now=115.0).seconds_left() == 105
    assert Snapshot(status, history, now=1000.0).seconds_left() == 60
    assert Snapshot(status, history[:1], now=115.0).seconds_left() is None


@pytest.mark.parametrize(
    ("status", "text", "over"),
    [
        (None, "no run here yet, waiting", False),
        (
            Status(4, round=0, phase="gather", host="far"),
            "before round 1 · waiting for sites",
            False,
        ),
        (
            Status(4, phase="gather", host="far", waiting=("GE", "a\x1bb")),
            "before round 1 · waiting for approval by GE, a b",
            False,
        ),
        (Status(4, "finished", started=10.0, since=135.0), "finished: 4 rounds in 2:05", True),
        (Status(4, "stopped", 2), "stopped in round 2; resume=true goes on", True),
        (Status(4, "failed", 3, error="too few sites"), "failed in round 3: too few sites", True),
    ],
)
def test_the_headline_says_how_it_stands(status: Status | None, text: str, over: bool) -> None:
    snapshot = Snapshot(status, [], now=200.0)
    assert headline(snapshot).startswith(text)
    assert snapshot.over is over


def test_a_round_in_a_line_names_penalties_silent_sites_and_refusals() -> None:
    line = {
        "round": 7,
        "sites": {"GE": {"validation": 0.5, "penalty": 0.75}, "Philips": {"bytes_down": 3}},
        "refused": [{"site": "Philips", "phase": "train", "reason": "no answer"}],
    }
    assert round_line(line) == (
        "round 7: validation Dice GE 0.5000 (penalty 0.75), Philips silent; "
        "Philips left out of train: no answer"
    )


def test_plain_lines_follow_a_run_to_its_end(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)

    def run() -> None:
        status = StatusFile(folder.status, rounds=3)
        for number in (1, 2, 3):
            status.phase(number, "train")
            play_round(folder, number, 0.5 + number / 10)
        status.finish()

    out = io.StringIO()
    runner = threading.Thread(target=run)
    runner.start()
    follow(tmp_path, Console(file=out, width=200), every_s=0.01)
    runner.join()
    lines = out.getvalue().splitlines()
    rounds = [line.split(":")[0] for line in lines if line.startswith("round ") and "Dice" in line]
    assert rounds == ["round 1", "round 2", "round 3"]
    assert lines[-1].startswith("finished: 3 rounds")


DAMAGED = ("", '{"rounds": 1, "sta', "[]", '{"rounds": 1, "since": "noon"}')


@pytest.mark.parametrize("content", DAMAGED)
def test_a_look_at_a_damaged_status_is_an_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "status.json").write_text(content)
    app = typer.Typer()
    app.command()(watch)
    result = CliRunner().invoke(app, [str(tmp_path), "--once"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith(f"{tmp_path}/status.json: ")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_damaged_status_is_said_once_and_waited_for(tmp_path: Path, terminal: bool) -> None:
    folder = RunDir(tmp_path)
    folder.status.write_text('{"rounds": 1, "sta')
    out = Console(file=io.StringIO(), width=300, force_terminal=terminal)
    looks = 0

    def mended(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            StatusFile(folder.status, rounds=1).finish()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("results.watch.time.sleep", mended)
        snapshot = follow(tmp_path, out, every_s=1.0)
    assert isinstance(out.file, io.StringIO)
    said = out.file.getvalue()
    assert snapshot.over
    assert "status.json: damaged, not JSON" in said
    assert "finished: 1 rounds" in said
    if not terminal:
        assert said.count("not JSON") == 1


def test_a_history_of_another_kind_is_named_and_the_status_shown(tmp_path: Path) -> None:
    status = StatusFile(tmp_path / "status.json", rounds=4)
    status.phase(3, "train")
    for line in (b"[]\n", b'{"round": 1}\n'):
        (tmp_path / "history.jsonl").write_bytes(line)
        text = shown(take_snapshot(tmp_path), width=300)
        assert "round 3/4 · train" in text
        assert "history.jsonl: line 1 does not describe a round" in text
    (tmp_path / "history.jsonl").write_bytes(b"\xff\n")
    unreadable = take_snapshot(tmp_path)
    assert unreadable.history == []
    assert unreadable.damage.startswith(f"{tmp_path}/history.jsonl: line 1 is damaged")


def test_an_earlier_run_is_not_shown_as_the_one_that_begins(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    play_round(folder, 1, 0.5)
    status = StatusFile(folder.status, rounds=4, saved=False)
    assert take_snapshot(tmp_path).history == []
    status.save()
    assert len(take_snapshot(tmp_path).history) == 1


def test_texts_of_other_machines_cannot_act_on_the_terminal(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    evil = "Z\x1b]0;pwned\x07\nround 9: forged"
    sites = {evil: entry(validation=0.5)}
    refused = [{"site": evil, "phase": "train", "reason": evil * 10**4}]
    line = RoundRecord(1, 0.2, sites, refused, {"train": 1.0}).to_json()
    folder.history.write_text(json.dumps(line) + "\n")
    StatusFile(folder.status, rounds=2).fail(ValueError(evil * 10**4))
    text = shown(take_snapshot(tmp_path), width=9000) + round_line(line)
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert not any(row.startswith("round 9") for row in text.splitlines())
    assert max(map(len, text.splitlines())) < 10_000


def test_a_terminal_gets_a_live_table(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    play_round(folder, 1, 0.5)
    StatusFile(folder.status, rounds=1).finish()
    out = io.StringIO()
    follow(tmp_path, Console(file=out, width=110, force_terminal=True), every_s=0.01)
    assert "finished: 1 rounds" in out.getvalue()
    assert "Siemens" in out.getvalue()


def test_the_exit_status_says_whether_the_run_went_well(tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(watch)
    nothing = CliRunner().invoke(app, [str(tmp_path / "nowhere"), "--once"])
    assert isinstance(nothing.exception, UserError)
    status = StatusFile(tmp_path / "status.json", rounds=2)
    assert CliRunner().invoke(app, [str(tmp_path), "--once"]).exit_code == 0
    status.fail(ValueError("disk full"))
    result = CliRunner().invoke(app, [str(tmp_path)])
    assert result.exit_code == 1
    assert "disk full" in result.output
    status.finish()
    assert CliRunner().invoke(app, [str(tmp_path)]).exit_code == 0
