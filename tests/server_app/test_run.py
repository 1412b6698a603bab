"""A run ends with its files whatever its sites are called, and spoils nobody else's."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from common.adapter import load_adapter
from common.errors import UserError
from common.options import Value
from common.text import is_name
from results.run_reader import read_run
from server_app.run_dir import RunDir
from server_app.status import read_status
from strategies import roster
from tests.attacks.kit import federate, three
from tests.strategies.fakes import FakeSite

NAMES = (
    "東京大学医学部附属病院循環器内科心臓磁気共鳴画像研究班第一室",
    "ü" * 100,
    "Hôpital $\\frac{$",
    "[/red]",
    "a\x7fb",
    "A\nB",
    "\x1b]0;pwned\x07",
    "x" * 10**5,
    "../../x",
    "..",
    "",
    "<script>alert(1)</script>",
    "_x",
    "=cmd|' /C calc'!A0",
    "\u202eabc",
)


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with mock.patch.object(roster, "POLL_S", 0.0):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_every_name_takes_part_or_is_refused(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "a" / "run"
    keys: dict[str, Value] = {"rounds": 1, "keep-updates": "all"}
    with caplog.at_level("WARNING", logger="flwr"):
        ended = federate(three(name=name), run_dir, plots=is_name(name), **keys)
    assert ended.error is None
    assert all(line.getMessage().isprintable() for line in caplog.records)
    run = read_run(run_dir)
    assert run.sites == sorted({"A", "B", *([name] if is_name(name) else [])})
    for refused in run.history[0]["refused"]:
        assert refused["phase"] == "join"
        assert refused["reason"].startswith("site is ")
        assert len(refused["reason"]) <= 300
    updates = [load_adapter(path)[1]["site"] for path in run_dir.glob("updates/round-001/*")]
    assert sorted(updates) == run.sites
    written = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert written <= set(run_dir.rglob("*"))


def test_a_second_run_in_the_folder_is_turned_away_and_the_first_goes_on(tmp_path: Path) -> None:
    second: list[Any] = []

    class Starter(FakeSite):
        def _content(self, request):  # type: ignore[no-untyped-def]
            if request.server_round == 2 and not second:
                second.append(federate({1: FakeSite("P"), 2: FakeSite("Q")}, tmp_path))
            return super()._content(request)

    first = federate({1: FakeSite("A"), 2: FakeSite("B"), 3: Starter("C")}, tmp_path, rounds=3)
    assert first.error is None
    assert isinstance(second[0].error, UserError)
    assert "another run writes to this folder" in str(second[0].error)
    assert [sorted(line["sites"]) for line in read_run(tmp_path).history] == [["A", "B", "C"]] * 4


def test_a_run_that_finds_no_site_leaves_the_finished_one(tmp_path: Path) -> None:
    assert federate(three(), tmp_path, rounds=2).error is None
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert isinstance(federate({}, tmp_path, rounds=1, rank=2).error, UserError)
    status = RunDir(tmp_path).status
    found = read_status(status)
    assert found is not None
    assert (found.state, found.saved) == ("failed", False)
    assert {path: path.read_bytes() for path in kept if path != status} == {
        path: data for path, data in kept.items() if path != status
    }
    assert federate(three(), tmp_path, rounds=1, rank=2).error is None
    assert [line["round"] for line in read_run(tmp_path).history] == [0, 1]
    assert read_run(tmp_path).config.model.rank == 2


@pytest.mark.parametrize("broken", ["plot_rounds", "summarise", "print_summary"])
def test_plots_and_summary_do_not_end_a_run(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        mock.patch(f"server_app.run.{broken}", side_effect=ValueError("no\x1b font")),
        caplog.at_level("WARNING", logger="flwr"),
    ):
        ended = federate(three(), tmp_path, plots=True, rounds=1)
    assert ended.error is None
    assert "is not written: ValueError: no  font" in caplog.text
    assert RunDir(tmp_path).adapter.is_file()
    assert json.loads(RunDir(tmp_path).status.read_text())["state"] == "finished"
