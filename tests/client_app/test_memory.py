"""A site keeps tensors between rounds for each run apart, and only the latest."""

import os
import time
from pathlib import Path

import pytest
import torch

from client_app.memory import FORGOTTEN_S, KEPT, OWN, Memory, memory_folder
from common.config import RunConfig
from common.options import Value


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"x": torch.full((2,), value)}


def number(found: dict[str, torch.Tensor] | None) -> float | None:
    return None if found is None else float(found["x"][0])


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "run")
    assert memory.load(OWN, 1) is None
    assert memory.latest(OWN, 0, 9) is None
    memory.save(OWN, 1, tensors(1))
    found = Memory(tmp_path / "run").load(OWN, 1)
    assert found is not None
    assert torch.equal(found["x"], torch.ones(2))


def test_only_the_latest_are_kept_and_kinds_do_not_mix(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.save("folded", 1, tensors(0))
    for round_number in range(1, 12):
        memory.save(OWN, round_number, tensors(round_number))
    held = [n for n in range(1, 12) if memory.load(OWN, n) is not None]
    assert held == [10, 11][-KEPT:]
    assert memory.load("folded", 1) is not None


def test_a_repeated_round_goes_on_from_the_one_before(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for round_number in (1, 2):
        memory.save(OWN, round_number, tensors(round_number))
    assert number(memory.latest(OWN, 0, 1)) == 1


def test_rounds_after_an_older_checkpoint_are_done_again(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for round_number in (8, 9, 5):
        memory.save(OWN, round_number, tensors(round_number))
    assert number(memory.load(OWN, 5)) == 5
    assert number(memory.latest(OWN, 5, 9)) == 5


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    (tmp_path / "own-copy.safetensors").touch()
    for round_number in (999_999, 1_000_000, 1_000_001):
        memory.save(OWN, round_number, tensors(round_number))
    assert number(memory.latest(OWN, 0, 2_000_000)) == 1_000_001
    assert number(memory.load(OWN, 1_000_000)) == 1_000_000
    assert (tmp_path / "own-copy.safetensors").is_file()


def test_what_is_older_than_asked_is_not_taken(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.save(OWN, 1, tensors(1))
    assert number(memory.latest(OWN, 1, 3)) == 1
    assert memory.latest(OWN, 2, 3) is None


def test_a_broken_file_is_one_that_is_not_there(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.save(OWN, 1, tensors(1))
    memory.save(OWN, 2, tensors(2))
    path = max(tmp_path.iterdir())
    path.write_bytes(path.read_bytes()[:20])
    assert memory.load(OWN, 2) is None
    assert number(memory.latest(OWN, 1, 2)) == 1


def test_runs_that_ended_long_ago_are_forgotten_and_others_are_not(tmp_path: Path) -> None:
    old, paused = Memory(tmp_path / "old"), Memory(tmp_path / "paused")
    for memory, age in ((old, FORGOTTEN_S + 60), (paused, FORGOTTEN_S - 60)):
        memory.save(OWN, 1, tensors(1))
        os.utime(memory.folder, (time.time() - age,) * 2)
    Memory(tmp_path / "new").save(OWN, 1, tensors(1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "paused"]


def folder(run_id: str = "f00d", site: str = "GE", **keys: Value) -> Path:
    flat = {key.replace("_", "-"): value for key, value in keys.items()}
    return memory_folder(RunConfig.from_flat(flat), run_id, site)


def test_runs_and_sites_have_folders_of_their_own() -> None:
    assert folder() == folder()
    assert len({folder(), folder(site="Philips"), folder(run_id="beef")}) == 3
    assert folder(cache_dir="elsewhere").parent == Path("elsewhere/memory")


CHANGED: dict[str, Value] = {
    "threads": 3, "device": "cpu", "tensorboard": True, "keep-updates": "all", "profile": "small",
    "run-dir": "moved", "data-dir": "copy", "base-model": "copy.safetensors", "resume": True,
    "local-validation": True, "rounds": 99, "sites": 5, "min-sites": 1, "wait-s": 5,
    "round-timeout-s": 5,
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGED)
def test_a_resumed_run_finds_what_it_kept_whatever_else_changed(key: str) -> None:
    changed = RunConfig.from_flat({key: CHANGED[key]})
    assert changed != RunConfig()
    assert memory_folder(changed, "f00d", "GE") == folder()
