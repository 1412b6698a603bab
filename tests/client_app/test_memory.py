"""What a site keeps between rounds is its own run's, and only the latest."""

from pathlib import Path

import torch

from client_app.memory import KEPT, OWN, Memory, memory_folder
from common.config import RunConfig
from common.options import Value


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"x": torch.full((2,), value)}


def test_what_was_kept_comes_back(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "run")
    assert memory.load(OWN, 1) is None
    assert memory.latest(OWN, 9) is None
    memory.save(OWN, 1, tensors(1))
    found = Memory(tmp_path / "run").load(OWN, 1)
    assert found is not None
    assert torch.equal(found["x"], torch.ones(2))


def test_only_the_latest_are_kept_and_kinds_do_not_mix(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.save("folded", 1, tensors(0))
    for number in range(1, 12):
        memory.save(OWN, number, tensors(number))
    held = [number for number in range(1, 12) if memory.load(OWN, number) is not None]
    assert held == [10, 11][-KEPT:]
    assert memory.load("folded", 1) is not None


def test_a_repeated_round_goes_on_from_the_one_before(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    for number in (1, 2):
        memory.save(OWN, number, tensors(number))
    latest = memory.latest(OWN, 2)
    assert latest is not None
    assert latest["x"][0] == 1


def test_a_broken_file_is_one_that_is_not_there(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.save(OWN, 1, tensors(1))
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:20])
    assert memory.load(OWN, 1) is None


def test_another_run_forgets_and_the_same_one_does_not(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "run")
    memory.begin(7)
    memory.save(OWN, 1, tensors(1))
    memory.begin(7)
    assert memory.load(OWN, 1) is not None
    memory.begin(8)
    assert memory.load(OWN, 1) is None


def test_clearing_forgets(tmp_path: Path) -> None:
    memory = Memory(tmp_path / "run")
    memory.save(OWN, 1, tensors(1))
    memory.clear()
    assert memory.load(OWN, 1) is None
    memory.clear()  # of nothing


def folder(site: str = "GE", **keys: Value) -> Path:
    flat = {key.replace("_", "-"): value for key, value in keys.items()}
    return memory_folder(RunConfig.from_flat(flat), site)


def test_runs_and_sites_have_folders_of_their_own() -> None:
    assert folder() == folder()
    others = [folder("Philips"), folder(run_dir="x"), folder(seed=1), folder(rank=4)]
    assert len({folder(), *others}) == 5


def test_a_resumed_run_finds_what_it_kept() -> None:
    assert folder(resume=True, rounds=9, min_sites=1, wait_s=5) == folder()
