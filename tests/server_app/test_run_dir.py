"""A run's folder has no half-written files, none of another run, and resumes exactly."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from common.adapter import Adapter, Factors, load_adapter, site_file
from common.config import RunConfig
from common.errors import UserError
from common.options import Value, keys_of
from server_app.checkpoint import load_checkpoint
from server_app.run_dir import RunDir, settings_of
from server_app.status import StatusFile
from strategies.state import RoundRecord, RunState
from tests.conftest import adapter_of


def state(server_round: int, value: float = 0.0) -> RunState:
    adapter = Adapter({"conv": Factors(torch.full((2, 3), value), torch.ones(4, 2))}, scale=1.0)
    return RunState(adapter, server_round, {"GE": 0.5 + server_round / 10})


def record(server_round: int) -> RoundRecord:
    return RoundRecord(server_round, 0.1, {"GE": {"validation": float("nan")}})


def config(**keys: object) -> RunConfig:
    return RunConfig.from_flat({key.replace("_", "-"): v for key, v in keys.items()})  # type: ignore[misc]


def test_resume_returns_the_saved_state_exactly(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1, 0.1), record(1))
    folder.save_round(state(2, 1 / 3), record(2))
    resumed = RunDir(tmp_path).begin(config(resume=True), state(0))
    assert resumed.server_round == 2
    assert resumed.previous == state(2).previous
    assert torch.equal(adapter_of(resumed.parameters).layers["conv"].A, torch.full((2, 3), 1 / 3))


def test_a_run_that_is_resumed_before_round_1_keeps_the_id_that_sites_approved(
    tmp_path: Path,
) -> None:
    def begin(**keys: object) -> str:
        folder = RunDir(tmp_path)
        run_id = folder.begin(config(**keys), state(0)).run_id
        made = config(**keys)
        StatusFile(folder.status, 3, saved=folder.saved, run=run_id, settings=settings_of(made))
        return run_id

    first = begin()
    assert begin(resume=True, wait_s=7) == first
    assert begin(resume=True, rounds=9) == first  # it is another run to the sites all the same
    other = begin(resume=True, seed=1)
    assert len({first, other, begin(seed=1)}) == 3


def test_a_line_beyond_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1), record(1))
    with folder.history.open("a") as file:  # killed after the line, before the checkpoint
        file.write(json.dumps({"round": 2}) + "\n")
    folder.begin(config(resume=True), state(0))
    assert [line["round"] for line in folder.read_history()] == [1]


def test_half_a_line_is_dropped_too(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1), record(1))
    with folder.history.open("a") as file:  # the disk was full
        file.write('{"round": 2, "si')
    folder.begin(config(resume=True), state(0))
    assert [line["round"] for line in folder.read_history()] == [1]


def another(key: str) -> Value:
    """Return another value of a key that is allowed with the defaults of the other keys."""
    value, spec = DEFAULTS[key], keys_of(RunConfig)[key]
    if key in VALID:
        return VALID[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return next((c for c in spec.metadata["choices"] if c != value), "another")
    low, high = spec.metadata["low"], spec.metadata["high"]
    return value + 1 if value + 1 <= high else max(low, value / 2)


VALID: dict[str, Value] = {
    "features": "4,4,4,4,4,4",
    "image-size": 64,
    "trains": "weights",
    "sends": "none",
    "rounds": 50,
    "min-agreement": 0.5,
}
"""Keys of which not every value in range is allowed."""
BESIDE: dict[str, dict[str, Value]] = {
    "trains": {"merge": "pad"},
    "factors": {"merge": "pad"},
    "sends": {"merge": "pad", "rating": "none"},
}
"""Other keys that a key's other value needs."""
DEFAULTS = RunConfig().to_flat()


@pytest.mark.parametrize("key", DEFAULTS)
def test_a_resumed_run_may_change_what_does_not_affect_its_result(tmp_path: Path, key: str) -> None:
    beside = BESIDE.get(key, {})
    folder = RunDir(tmp_path)
    folder.begin(RunConfig.from_flat(beside), state(0))
    folder.save_round(state(1), record(1))
    value = another(key)
    assert value != DEFAULTS[key]
    now = replace(RunConfig.from_flat({**beside, key: value}), resume=True)
    if keys_of(RunConfig)[key].metadata["affects"] == "result":
        with pytest.raises(UserError) as error:
            folder.begin(now, state(0))
        found = f"{key} was {DEFAULTS[key]!r} and is {value!r} now"
        assert str(error.value) == f"{tmp_path}: cannot resume, {found}"
    else:
        assert folder.begin(now, state(0)).server_round == 1


def test_only_these_keys_may_change_when_a_run_is_resumed() -> None:
    free = set(RunConfig.keys()) - set(RunConfig.keys_that_affect("result"))
    assert free == {
        *("profile", "preset", "resume", "run-dir", "cache-dir", "data-dir", "base-model"),
        *("rounds", "sites", "min-sites", "wait-s", "approval-wait-s", "round-timeout-s"),
        *("device", "threads"),
        *("keep-updates", "tensorboard", "local-validation"),
    }


def test_resume_refuses_other_settings_and_names_the_key(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(lambda_0=0.2), state(0))
    folder.save_round(state(1), record(1))
    with pytest.raises(UserError, match=r"lambda-0 was 0.2 and is 0.4"):
        folder.begin(config(lambda_0=0.4, resume=True), state(0))
    assert folder.begin(config(rounds=50, resume=True), state(0)).server_round == 1


def test_resume_without_checkpoint_begins_anew(tmp_path: Path) -> None:
    assert RunDir(tmp_path / "new").begin(config(resume=True), state(0)).server_round == 0


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1), record(1))
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:50])
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: not a checkpoint"):
        folder.begin(config(resume=True), state(0))


def rounds(folder: RunDir) -> list[int]:
    return [line["round"] for line in folder.read_history()]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_run_goes_on_from_the_newest_sound_checkpoint(
    tmp_path: Path, damaged: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    for server_round in range(1, 6):
        folder.save_round(state(server_round), record(server_round))
    assert [load_checkpoint(path).server_round for path in folder.checkpoints] == [5, 4, 3]
    for path in folder.checkpoints[:damaged]:
        flip_a_bit(path)
    with caplog.at_level("WARNING", logger="flwr"):
        assert folder.begin(config(resume=True), state(0)).server_round == 5 - damaged
    for path in folder.checkpoints[:damaged]:
        assert f"{path}: damaged" in caplog.text
    assert rounds(folder) == [*range(1, 6 - damaged)]


def test_a_run_without_a_sound_checkpoint_names_each(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    for server_round in (1, 2, 3):
        folder.save_round(state(server_round), record(server_round))
    for path in folder.checkpoints:
        flip_a_bit(path)
    with pytest.raises(UserError) as error:
        folder.begin(config(resume=True), state(0))
    assert all(f"{path}: damaged" in str(error.value) for path in folder.checkpoints)


def test_a_new_run_clears_its_own_files_only(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    for server_round in (1, 2):
        folder.save_round(state(server_round), record(server_round))
    (tmp_path / "notes.txt").write_text("mine")
    folder.begin(config(), state(0))
    folder.save_round(state(1), record(1))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.toml", "history.jsonl", "checkpoint.safetensors", "notes.txt"}
    assert rounds(folder) == [1]


def test_a_run_that_does_not_begin_leaves_the_earlier_one_as_it_is(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1, 0.5), record(1))
    folder.save_result(state(1), 1.0, "a" * 64)
    folder.write_summary({})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    RunDir(tmp_path).begin(config(rank=4, keep_updates="all"), state(0))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert RunDir(tmp_path).begin(config(resume=True), state(0)).server_round == 1


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with RunDir(tmp_path / "run").locked():
        with (
            pytest.raises(UserError, match="run: another run writes to this folder"),
            RunDir(tmp_path / "run").locked(),
        ):
            pass
        with RunDir(tmp_path / "other").locked():
            pass
    with RunDir(tmp_path / "run").locked():
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".run.lock"]


def test_the_lock_of_a_killed_run_is_gone(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from server_app.run_dir import RunDir\n"
        "with RunDir(Path(sys.argv[1])).locked(): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path], check=False).returncode == 9
    with RunDir(tmp_path).locked():
        pass


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left = [tmp_path / ".checkpoint.safetensors.4711.part", tmp_path / ".t.json.1.part"]
    others = [tmp_path / ".movie.part", tmp_path / "a.1.part"]
    for path in (*left, *others):
        path.touch()
    RunDir(tmp_path).begin(config(), state(0))
    assert sorted(tmp_path.iterdir()) == sorted(others)


@pytest.mark.parametrize("line", [b"x", b'{"round": 2, "si', b"\xff", b"[" * 10**5, b"[]", b"{}"])
def test_a_damaged_line_of_the_history_is_named(tmp_path: Path, line: bytes) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    for server_round in (1, 2, 3):
        folder.save_round(state(server_round), record(server_round))
    first, _, third = folder.history.read_bytes().splitlines()
    folder.history.write_bytes(b"\n".join([first, line, third, b""]))
    for read in (folder.read_history, lambda: folder.begin(config(resume=True), state(0))):
        with pytest.raises(UserError, match=r"history\.jsonl: line 2 (is damaged|does not)"):
            read()


def test_a_history_that_cannot_be_written_ends_the_round_with_a_sentence(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1), record(1))
    folder.history.unlink()
    folder.history.mkdir()
    with pytest.raises(UserError, match=r"history\.jsonl: cannot be written"):
        folder.save_round(state(2), record(2))
    assert load_checkpoint(folder.checkpoint).server_round == 1


@pytest.mark.parametrize(("keep", "rounds"), [("none", []), ("last", [3]), ("all", [1, 2, 3])])
def test_updates_are_kept_as_asked(tmp_path: Path, keep: str, rounds: list[int]) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    for server_round in (1, 2, 3):
        updates = {"GE": state(0, server_round).parameters}
        folder.save_updates(server_round, updates, keep=keep)
    assert [p.name for p in sorted(tmp_path.glob("updates/*"))] == [
        f"round-{t:03d}" for t in rounds
    ]
    for t in rounds:
        adapter, notes = load_adapter(folder.updates / f"round-{t:03d}" / "GE.safetensors")
        assert adapter.layers["conv"].A[0, 0] == t
        assert notes == {"site": "GE", "round": str(t)}
    folder.begin(config(), state(0))
    folder.save_updates(0, {}, keep=keep)
    assert not folder.updates.exists()


def test_a_round_without_updates_leaves_the_last_ones(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.save_updates(1, {"GE": state(0).parameters}, keep="last")
    folder.save_updates(2, {}, keep="last")
    assert [path.name for path in folder.updates.iterdir()] == ["round-001"]


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", "a/b", "St. Anna · Köln", "東" * 100, "x" * 10**5],
)
def test_a_site_cannot_name_its_way_out_of_the_folder(tmp_path: Path, name: str) -> None:
    folder = RunDir(tmp_path / "run")
    folder.save_updates(1, {name: state(0).parameters}, keep="all")
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.parent == folder.updates / "round-001"
    assert load_adapter(file)[1]["site"] == name


def test_history_is_json_whatever_the_numbers(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    folder.begin(config(), state(0))
    folder.save_round(state(1), record(1))

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    line = json.loads(folder.history.read_text(), parse_constant=refuse)
    assert line["sites"]["GE"]["validation"] is None


def test_no_two_names_have_one_file() -> None:
    long = "東" * 40
    cut = site_file(long).removesuffix(".safetensors")
    names = [long, long + "京", cut, unquote(cut), "東" * 39 + "京"]
    assert len({site_file(name) for name in names}) == len(names)
