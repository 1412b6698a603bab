"""A server whose disk is full stops with a sentence, and goes on from its last whole round."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import UserError
from server_app.run_dir import RunDir
from strategies.state import RoundRecord, RunState
from tests.strategies.fakes import make_config, random_adapter, same_bits

SIZE = 64 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return the mount point of a file system with little space."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(tmp_path)]
    done = subprocess.run(mount, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting needs root: {done.stderr.strip()}")
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(512)):
            pass


def test_a_full_disk_leaves_the_last_round_whole(small_disk: Path) -> None:
    config = make_config(resume=True)
    folder = RunDir(small_disk / "run")
    states = {t: RunState(random_adapter(t, rank=4), t, {"GE": 0.5}, {"GE": 4}) for t in (1, 2)}
    folder.begin(config, states[1])
    folder.save_round(states[1], RoundRecord(1))

    ballast = small_disk / "other users' files"
    fill(ballast)
    with pytest.raises((UserError, OSError), match=r"cannot be written|No space left"):
        folder.save_round(states[2], RoundRecord(2, sites={"GE": {"note": "x" * 5000}}))

    ballast.unlink()
    resumed = folder.begin(config, RunState(random_adapter(0, rank=4)))
    assert resumed.server_round == 1
    assert same_bits(resumed.parameters, states[1].parameters)
    assert [line["round"] for line in folder.read_history()] == [1]
    folder.save_round(states[2], RoundRecord(2))
    assert folder.begin(config, states[1]).server_round == 2
