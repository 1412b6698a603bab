"""Fixtures for all tests: a small base model and adapters for it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from cardiac.phantom import write_mnms2, write_phantom
from common import lora
from common.adapter import Adapter, Factors
from common.flower_environment import SETTINGS
from common.flower_private import SUPERLINK_NODE_ID, TaskIdentity
from common.model import build_unet, save_base
from common.weights import Parameters

SMALL = (4, 8, 8, 8, 8, 4)
"""Channels of a U-Net that a test can afford."""

SITE_FEATURES = (4, 4, 8, 8, 8, 4)
"""Channels of the base model beside ``site_data``."""

MakeAdapter = Callable[..., Adapter]

TESTS = Path(__file__).resolve().parent
LONGEST_FIRST = (
    "network/test_tls.py",
    "network/test_site_faults.py",
    "test_simulation.py",
    "test_compose.py",
    "cli/test_compare.py",
    "test_methods.py",
)
"""Modules of a minute or more; they start first so that none runs alone at the end."""

# The nets are so small that threads cost more than they bring, here and in what the tests start
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(SETTINGS)
# Flower makes messages in the process of a task alone
TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, SUPERLINK_NODE_ID
# MONAI imports transformers where it is installed, and PEFT, the oracle of some tests, brings it:
# 3 s for every process that the tests start, none of which uses it
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(TESTS / "shadow"), *filter(None, [os.environ.get("PYTHONPATH")])]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first where several workers share the tests."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        places = {(TESTS / name).resolve(strict=True): n for n, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))


def adapter_of(parameters: Parameters) -> Adapter:
    """Return the parameters of a run that are an adapter."""
    assert isinstance(parameters, Adapter)
    return parameters


@pytest.fixture
def unet() -> nn.Module:
    """Return an untrained small U-Net, the same in every test."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = build_unet(SMALL).eval()
    return model


@pytest.fixture
def make_adapter(unet: nn.Module) -> MakeAdapter:
    """Return a maker of random adapters for the small U-Net, none of whose factors is zero."""

    def make(rank: int = 3, scale: float = 0.5, seed: int = 0) -> Adapter:
        start = lora.initial_adapter(lora.layer_shapes(unet), rank, scale, seed)
        generator = torch.Generator().manual_seed(seed + 1)
        layers = {
            name: Factors(f.A, 0.3 * torch.randn(f.B.shape, generator=generator))
            for name, f in start.layers.items()
        }
        return Adapter(layers, scale)

    return make


@pytest.fixture(scope="session")
def phantom_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small phantom, not to be written to: ``acdc`` of 5 patients, ``mnms2`` of 15."""
    out = tmp_path_factory.mktemp("small-phantom")
    vendors = {"SIEMENS": 6, "Philips Medical Systems": 5, "GE MEDICAL SYSTEMS": 4}
    write_phantom(out, acdc_patients=5, patients=vendors)
    return out


@pytest.fixture(scope="session")
def site_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a phantom with three small sites, and an untrained base model beside it."""
    folder = tmp_path_factory.mktemp("data")
    vendors = {"SIEMENS": 5, "Philips Medical Systems": 5, "GE MEDICAL SYSTEMS": 3}
    write_mnms2(folder, patients=vendors)
    torch.manual_seed(0)
    save_base(build_unet(SITE_FEATURES), folder / "base.safetensors")
    return folder
