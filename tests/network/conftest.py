"""What the tests of real federations compare with."""

from pathlib import Path

import pytest

from tests.test_simulation import command, finish, start


@pytest.fixture(scope="session")
def simulated(site_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a simulated run of two rounds with all its updates."""
    run_dir = tmp_path_factory.mktemp("simulated") / "run"
    words = command(site_data, run_dir, rounds=2, keep_updates="all")
    status, output = finish(start(words, site_data))
    assert status == 0, output
    return run_dir
