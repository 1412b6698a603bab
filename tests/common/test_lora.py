"""LoRA on the U-Net: what trains, what does not change, and the same numbers as PEFT."""

import copy
from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from common import lora
from common.adapter import Adapter, Factors
from common.model import build_unet, save_base, weight_bytes
from tests.conftest import MakeAdapter

PAPER = (32, 64, 128, 256, 512, 32)
MIB = 2**20


@pytest.fixture
def image() -> Tensor:
    return torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(1))


def adapters_equal(a: Adapter, b: Adapter) -> bool:
    left, right = a.tensors(), b.tensors()
    same = list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)
    return same and a.scale == b.scale


def test_zero_factors_change_nothing_bit_for_bit(unet: nn.Module, image: Tensor) -> None:
    before = unet(image)
    lora.attach(unet, rank=4, scale=2.0)
    assert torch.equal(unet(image), before)


def test_the_initial_adapter_changes_nothing_bit_for_bit(unet: nn.Module, image: Tensor) -> None:
    before = unet(image)
    lora.set_adapter(unet, lora.initial_adapter(lora.layer_shapes(unet), 4, 2.0, seed=3))
    assert torch.equal(unet(image), before)
    assert all(f.A.abs().max() > 0 for f in lora.get_adapter(unet).layers.values())


def test_an_adapter_that_is_not_zero_changes_the_output(
    unet: nn.Module, image: Tensor, make_adapter: MakeAdapter
) -> None:
    before = unet(image)
    lora.set_adapter(unet, make_adapter())
    assert (unet(image) - before).abs().max() > 1e-3


def test_the_initial_adapter_is_a_function_of_its_seed(unet: nn.Module) -> None:
    shapes = lora.layer_shapes(unet)
    first, again, other = (lora.initial_adapter(shapes, 4, 1.0, seed) for seed in (7, 7, 8))
    assert adapters_equal(first, again)
    assert not adapters_equal(first, other)


def test_the_initial_adapter_is_bounded_as_in_peft(unet: nn.Module) -> None:
    for factors in lora.initial_adapter(lora.layer_shapes(unet), 16, 1.0, 0).layers.values():
        bound = factors.A.shape[1] ** -0.5
        assert 0.8 * bound < factors.A.abs().max() <= bound
        assert not factors.B.any()


def test_only_the_factors_are_trainable(unet: nn.Module) -> None:
    lora.attach(unet, rank=2, scale=1.0)
    trainable = {name for name, p in unet.named_parameters() if p.requires_grad}
    factors = {
        f"{layer}.parametrizations.weight.0.{factor}"
        for layer in lora.target_layers(unet)
        for factor in ("lora_A", "lora_B")
    }
    assert trainable == factors


def test_one_step_changes_all_factors_and_nothing_else(
    unet: nn.Module, image: Tensor, make_adapter: MakeAdapter
) -> None:
    lora.set_adapter(unet, make_adapter())
    trainable = {name for name, p in unet.named_parameters() if p.requires_grad}
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    optimiser = torch.optim.AdamW(unet.parameters(), lr=0.01, weight_decay=0.1)
    unet.train()(image).square().mean().backward()
    optimiser.step()
    changed = {name for name, value in unet.state_dict().items() if value.ne(before[name]).any()}
    assert changed == trainable


def test_the_nineteen_convolutions_are_adapted_and_the_transposed_ones_are_not(
    unet: nn.Module,
) -> None:
    convolutions = {n for n, m in unet.named_modules() if type(m) is nn.Conv2d}
    transposed = {n: m for n, m in unet.named_modules() if isinstance(m, nn.ConvTranspose2d)}
    assert (len(convolutions), len(transposed)) == (19, 4)
    lora.attach(unet, rank=2, scale=1.0)
    assert set(lora.attached(unet)) == convolutions
    for module in transposed.values():
        assert type(module) is nn.ConvTranspose2d
        assert not any(p.requires_grad for p in module.parameters())


def test_a_model_with_nothing_to_adapt_is_an_error() -> None:
    with pytest.raises(AssertionError, match="no Conv2d"):
        lora.attach(nn.Linear(2, 2), rank=1, scale=1.0)


@pytest.mark.parametrize(("rank", "alpha"), [(1, 1), (3, 8), (8, 4), (16, 16)])
def test_output_and_gradients_are_those_of_peft(
    unet: nn.Module, image: Tensor, make_adapter: MakeAdapter, rank: int, alpha: int
) -> None:
    ours, image = unet.double(), image.double()
    config = peft.LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(lora.target_layers(ours))
    )
    theirs = peft.get_peft_model(copy.deepcopy(ours), config).eval()
    adapter = make_adapter(rank=rank, scale=alpha / rank)
    lora.set_adapter(ours, adapter)
    layers = {n: m for n, m in theirs.base_model.model.named_modules() if hasattr(m, "lora_A")}
    assert set(layers) == set(adapter.layers)
    for name, (A, B) in adapter.layers.items():
        for weight, value in (
            (layers[name].lora_A["default"].weight, A),
            (layers[name].lora_B["default"].weight, B),
        ):
            weight.data.copy_(value.view_as(weight))

    outputs = [model(image) for model in (ours, theirs)]
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-12)
    for output in outputs:
        output.square().mean().backward()
    for name, factors in lora.attached(ours).items():
        for mine, other in (
            (factors.lora_A, layers[name].lora_A["default"].weight),
            (factors.lora_B, layers[name].lora_B["default"].weight),
        ):
            assert mine.grad is not None
            assert mine.grad.abs().max() > 0
            torch.testing.assert_close(mine.grad, other.grad.view_as(mine), rtol=1e-8, atol=1e-12)


def test_folding_gives_the_output_of_the_attached_adapter(
    unet: nn.Module, image: Tensor, make_adapter: MakeAdapter
) -> None:
    adapter, base = make_adapter(), copy.deepcopy(unet)
    lora.set_adapter(unet, adapter)
    attached = unet(image)
    lora.fold(base, adapter)
    assert not lora.attached(base)
    assert torch.equal(base(image), attached)


def test_unfolding_restores_the_weights_up_to_rounding(
    unet: nn.Module, make_adapter: MakeAdapter
) -> None:
    base = copy.deepcopy(unet)
    lora.fold(unet, make_adapter())
    name = "conv_0.conv_1.conv.weight"
    assert (unet.get_parameter(name) - base.get_parameter(name)).abs().max() > 1e-3
    lora.fold(unet, make_adapter(), sign=-1)
    for name, value in base.state_dict().items():
        torch.testing.assert_close(unet.state_dict()[name], value, rtol=0, atol=1e-6)


def test_get_returns_what_was_set_bit_for_bit(unet: nn.Module, make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(rank=5, scale=0.1)
    lora.set_adapter(unet, adapter)
    assert adapters_equal(lora.get_adapter(unet), adapter)


def test_set_and_get_copy(unet: nn.Module, image: Tensor, make_adapter: MakeAdapter) -> None:
    given = make_adapter()
    lora.set_adapter(unet, given)
    before = unet(image)
    for factors in (*given.layers.values(), *lora.get_adapter(unet).layers.values()):
        factors.A.zero_()
    assert torch.equal(unet(image), before)


def test_detaching_restores_the_base_exactly(
    unet: nn.Module, image: Tensor, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    base = copy.deepcopy(unet)
    lora.set_adapter(unet, make_adapter())
    unet(image).square().mean().backward()
    torch.optim.SGD(unet.parameters(), lr=0.1).step()
    lora.detach(unet)
    assert save_base(unet, tmp_path / "after") == save_base(base, tmp_path / "before")
    assert torch.equal(unet(image), base(image))
    assert all(type(layer) is nn.Conv2d for layer in lora.target_layers(unet).values())
    assert not any(p.requires_grad for p in unet.parameters())


@pytest.mark.parametrize("rank", [1, 2, 9])
def test_setting_an_adapter_of_another_rank_resizes_the_factors(
    unet: nn.Module, make_adapter: MakeAdapter, image: Tensor, rank: int
) -> None:
    fresh = copy.deepcopy(unet)
    lora.set_adapter(unet, make_adapter(rank=3))
    lora.set_adapter(unet, make_adapter(rank=rank, scale=0.7))
    lora.set_adapter(fresh, make_adapter(rank=rank, scale=0.7))
    assert lora.get_adapter(unet).rank == rank
    assert torch.equal(unet(image), fresh(image))


def test_the_adapter_of_another_model_is_refused_and_changes_nothing(
    unet: nn.Module, image: Tensor, make_adapter: MakeAdapter
) -> None:
    lora.set_adapter(unet, make_adapter())
    before = unet(image)
    other = {**make_adapter().layers, "final_conv": Factors(torch.ones(3, 5), torch.ones(4, 3))}
    message = r"final_conv: shape \(4, 5\), expected \(4, 4\)"
    with pytest.raises(ValueError, match=message):
        lora.set_adapter(unet, Adapter(other, 0.5))
    with pytest.raises(ValueError, match=message):
        lora.fold(unet, Adapter(other, 0.5))
    assert torch.equal(unet(image), before)


def test_the_papers_model_and_payloads() -> None:
    with torch.device("meta"):
        model = build_unet(PAPER)
    assert sum(p.numel() for p in model.parameters()) == 7_782_948
    assert weight_bytes(model) / 1e6 == pytest.approx(31, abs=0.2)
    shapes = lora.layer_shapes(model)
    mib = [lora.initial_adapter(shapes, rank, 1.0, 0).payload_bytes / MIB for rank in (16, 32)]
    assert mib == pytest.approx([1.80, 3.60], abs=0.005)
