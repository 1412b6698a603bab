"""A small model that knows phantom hearts, for the tests of its exported files."""

import json
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from cardiac.datasets import Case, read_cases
from cardiac.evaluation import predict_logits
from cardiac.phantom import write_mnms2
from cardiac.preprocessing import load_volume, volumes
from cardiac.training import Trainer, training_slices
from common import lora
from common.adapter import Adapter, Factors, load_adapter, save_adapter
from common.model import build_unet, load_base, save_base
from tests.cardiac.samples import TINY, tiny_config
from tests.conftest import SMALL

SPACING_MM = 1.5
CONFIG = {**TINY, "spacing-mm": SPACING_MM, "image-size": 64}
CPU = torch.device("cpu")


@dataclass
class Model:
    """A base that has learnt hearts, an adapter that changes what it says, and its cases."""

    folder: Path
    cases: list[Case]
    slices: list[Tensor]
    """Every volume's slices (z, 1, h, w)."""

    @property
    def base(self) -> Path:
        return self.folder / "base.safetensors"

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter.safetensors"

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    def network(self, *, adapted: bool = True) -> nn.Module:
        """Return the base with the adapter beside it, as a site computes with it."""
        model: nn.Module = load_base(self.base, SMALL).eval()
        if adapted:
            lora.set_adapter(model, load_adapter(self.adapter)[0])
        return model

    @cached_property
    def adapted(self) -> list[Tensor]:
        """The labels of every slice by the base with the adapter beside it."""
        return labels(self.network(), self)


@cache
def write_model(folder: Path) -> Model:
    """Write a base, an adapter, a configuration and phantoms of three vendors, once a session."""
    folder.mkdir()
    vendors = {"SIEMENS": 1, "Philips Medical Systems": 1, "GE MEDICAL SYSTEMS": 1}
    write_mnms2(folder, patients=vendors)
    cases = read_cases(folder / "mnms2")
    dataset = volumes(cases, SPACING_MM, None)
    loaded = [load_volume(dataset, index) for index in range(len(cases))]
    model = Model(folder, cases, [volume["image"] for volume in loaded])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = build_unet(SMALL)
    config = tiny_config(folder, CONFIG)
    slices = training_slices(loaded)
    trainer = Trainer(net, config.train, 0.01)
    for epoch in range(10):
        trainer.epoch(slices, epoch)
    sha256 = save_base(net, model.base)
    save_adapter(random_adapter(net), model.adapter, {"base-sha256": sha256})
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in CONFIG.items())
    model.config.write_text("".join(lines))
    return model


def random_adapter(net: nn.Module, rank: int = 2) -> Adapter:
    """Return an adapter that changes some of what a network says."""
    start = lora.initial_adapter(lora.layer_shapes(net), rank, 1.0, 0)
    generator = torch.Generator().manual_seed(1)
    layers = {
        name: Factors(f.A, 0.05 * torch.randn(f.B.shape, generator=generator))
        for name, f in start.layers.items()
    }
    return Adapter(layers, 1.0)


def labels(network: nn.Module, model: Model) -> list[Tensor]:
    """Return a network's labels (z, h, w) of every volume."""
    return [predict_logits(network, image, CPU).argmax(1) for image in model.slices]
