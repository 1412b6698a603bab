"""Fixtures for the tests of a site: a base file, and the phantom with its cache."""

from pathlib import Path

import pytest
import torch

from common.config import RunConfig
from common.model import build_unet, save_base
from tests.cardiac.samples import tiny_config


@pytest.fixture(scope="session")
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base file ``base.safetensors`` and the cache."""
    folder = tmp_path_factory.mktemp("work")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        save_base(build_unet(tiny_config(folder).model.channels()), folder / "base.safetensors")
    return folder


@pytest.fixture(scope="session")
def site_config(phantom_dir: Path, work_dir: Path) -> RunConfig:
    """Return the configuration of a run on the small phantom, seen at 4 mm."""
    return tiny_config(
        work_dir / "cache",
        {
            "data-dir": str(phantom_dir / "mnms2"),
            "base-model": str(work_dir / "base.safetensors"),
        },
    )
