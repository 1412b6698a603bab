"""LoRA as a reparametrised weight W + scale · B·A on every ``Conv2d``, and drawing an adapter.

The convolution itself is unchanged and runs once, as fast as the plain layer. Source: Hu et al.,
"LoRA", arXiv 2106.09685, Eq. 3, with the kernel flattened as in PEFT's ``Conv2d`` layers.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from common.adapter import Adapter, Factors
from common.config import RunConfig
from common.method import Half
from common.seeding import derive_seed


class LoRAWeight(nn.Module):
    """Adds scale · B·A to a convolution weight.

    Parameters
    ----------
    weight
        The frozen weight, (c_out, c_in, k, k).
    rank
        Number of rows of A and columns of B.
    scale
        alpha / rank.
    """

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        c_out, fan_in = weight.shape[0], weight[0].numel()
        self.scale = scale
        self.lora_A = nn.Parameter(weight.new_zeros(rank, fan_in))
        self.lora_B = nn.Parameter(weight.new_zeros(c_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, (c_out, c_in, k, k)."""
        return weight + self.scale * (self.lora_B @ self.lora_A).view_as(weight)


def target_layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Return the model's ``Conv2d`` layers by name (transposed ones are not among them)."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    assert layers, "the model has no Conv2d layer to adapt"
    return layers


def attach(model: nn.Module, rank: int, scale: float) -> None:
    """Put zero LoRA factors on every ``Conv2d``; only they are trainable afterwards."""
    model.requires_grad_(False)
    for layer in target_layers(model).values():
        lora = LoRAWeight(layer.weight, rank, scale)
        parametrize.register_parametrization(layer, "weight", lora)


def attached(model: nn.Module) -> dict[str, LoRAWeight]:
    """Return the attached LoRA factors by layer name."""
    found = {}
    for name, layer in target_layers(model).items():
        if parametrize.is_parametrized(layer, "weight"):
            lora = layer.get_submodule("parametrizations.weight.0")
            assert isinstance(lora, LoRAWeight)
            found[name] = lora
    return found


def set_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Make the model use ``adapter``; raises ValueError where its layers or shapes do not fit."""
    adapter.check_fits(layer_shapes(model))
    detach(model)
    attach(model, adapter.rank, adapter.scale)
    for name, lora in attached(model).items():
        factors = adapter.layers[name]
        lora.lora_A.data.copy_(factors.A)
        lora.lora_B.data.copy_(factors.B)


def get_adapter(model: nn.Module) -> Adapter:
    """Return a copy of the attached factors, on the CPU in float32."""
    loras = attached(model)
    assert loras, "no adapter is attached"
    layers = {
        name: Factors(
            A=lora.lora_A.detach().to("cpu", torch.float32, copy=True),
            B=lora.lora_B.detach().to("cpu", torch.float32, copy=True),
        )
        for name, lora in loras.items()
    }
    return Adapter(layers, next(iter(loras.values())).scale)


def detach(model: nn.Module) -> None:
    """Take the factors off, after which the model is exactly the base model again."""
    for layer in target_layers(model).values():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def fold(model: nn.Module, adapter: Adapter, sign: int = 1) -> None:
    """Add the adapter's deltas to the weights in place; ``sign=-1`` takes them off, rounded."""
    adapter.check_fits(layer_shapes(model))
    with torch.no_grad():
        for name, layer in target_layers(model).items():
            layer.weight += sign * adapter.delta(name).view_as(layer.weight)


def add_dense(model: nn.Module, folded: Mapping[str, Tensor]) -> None:
    """Add dense changes, (c_out, c_in·k·k) by layer, to the weights in place."""
    layers = target_layers(model)
    with torch.no_grad():
        for name, change in folded.items():
            layers[name].weight += change.view_as(layers[name].weight)


def train_only(model: nn.Module, halves: Collection[Half]) -> None:
    """Make only these halves of the attached factors trainable."""
    for lora in attached(model).values():
        lora.lora_A.requires_grad_("A" in halves)
        lora.lora_B.requires_grad_("B" in halves)


def layer_shapes(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Return (c_out, c_in·k·k) of every adapted layer by name."""
    return {
        name: (layer.out_channels, layer.weight[0].numel())
        for name, layer in target_layers(model).items()
    }


def initial_adapter(
    shapes: Mapping[str, tuple[int, int]], rank: int, scale: float, seed: int
) -> Adapter:
    """Return a new adapter: A random and B zero, so that it changes nothing.

    A is uniform in ±1/√(c_in·k·k), as in PEFT (Kaiming with a = √5). ``shapes`` has
    (c_out, c_in·k·k) by layer.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, (c_out, fan_in) in sorted(shapes.items()):
        bound = 1 / math.sqrt(fan_in)
        uniform = torch.rand(rank, fan_in, generator=generator)
        layers[name] = Factors(A=(2 * uniform - 1) * bound, B=torch.zeros(c_out, rank))
    return Adapter(layers, scale)


def drawn_adapter(
    config: RunConfig, shapes: Mapping[str, tuple[int, int]], rank: int, *path: int
) -> Adapter:
    """Return the initial adapter of a run, the same at every site and at the server.

    ``rank`` is the run's highest; sites of lower rank truncate the adapter. Where every round
    begins with an adapter of its own, ``path`` is the round.
    """
    seed = derive_seed(config.seed, "initial adapter", *path)
    return initial_adapter(shapes, rank, config.model.alpha_per_rank, seed)
