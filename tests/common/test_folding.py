"""Folding: dense sums beside the base, and the adapter that equals them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common import folding, lora
from common.adapter import Adapter, Factors, load_adapter, save_adapter
from common.folding import as_adapter, fold
from tests.conftest import MakeAdapter


def dense(adapter: Adapter, name: str) -> Tensor:
    """Return the delta of a layer in double precision."""
    factors = adapter.layers[name]
    return adapter.scale * (factors.B.double() @ factors.A.double())


def test_the_first_fold_is_the_delta_rounded_once(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(rank=3)
    folded = fold(None, adapter)
    assert set(folded) == set(adapter.layers)
    for name, change in folded.items():
        assert change.dtype == torch.float32
        assert change.shape == adapter.delta(name).shape
        torch.testing.assert_close(change, dense(adapter, name).float(), rtol=1e-7, atol=0)


def test_folds_of_any_rank_and_scale_add_up(make_adapter: MakeAdapter) -> None:
    adapters = [make_adapter(rank=r, scale=s, seed=r) for r, s in ((3, 0.5), (1, 2.0), (7, 0.3))]
    folded = None
    for adapter in adapters:
        folded = fold(folded, adapter)
    assert folded is not None
    for name, change in folded.items():
        expected = torch.stack([dense(adapter, name) for adapter in adapters]).sum(dim=0)
        torch.testing.assert_close(change.double(), expected, rtol=0, atol=1e-6)


def test_a_fold_leaves_its_arguments_alone(make_adapter: MakeAdapter) -> None:
    first, second = make_adapter(seed=1), make_adapter(seed=2)
    folded = fold(None, first)
    before = {name: change.clone() for name, change in folded.items()}
    fold(folded, second)
    assert all(torch.equal(folded[name], before[name]) for name in before)


def test_a_fold_is_the_same_however_many_components_are_held(
    make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = make_adapter(rank=7)
    at_once = fold(None, adapter)
    monkeypatch.setattr(folding, "BLOCK", 3)
    in_blocks = fold(None, adapter)
    for name, change in at_once.items():
        torch.testing.assert_close(in_blocks[name], change, rtol=1e-6, atol=1e-9)


def test_many_stacked_components_are_summed_in_double_precision() -> None:
    b = torch.tensor([[1.0, 2**-26, 2**-26, -1.0]])  # in single precision the small ones are lost
    folded = fold(None, Adapter({"conv": Factors(torch.ones(4, 1), b)}, 1.0))
    assert folded["conv"].item() == 2**-25


def test_a_fold_of_another_model_fails_an_assertion(make_adapter: MakeAdapter) -> None:
    with pytest.raises(AssertionError, match="another model"):
        fold({"other": torch.zeros(2, 2)}, make_adapter())


@pytest.mark.parametrize("scale", [1.0, 0.5, 3.0])
@pytest.mark.parametrize("with_adapter", [True, False])
def test_the_adapter_of_what_was_folded_changes_as_much(
    unet: nn.Module, make_adapter: MakeAdapter, scale: float, with_adapter: bool
) -> None:
    folded = fold(None, make_adapter(rank=5, seed=1))
    live = make_adapter(rank=3, scale=0.25, seed=2) if with_adapter else None
    adapter = as_adapter(folded, live, scale)
    shapes = lora.layer_shapes(unet)
    adapter.check_fits(shapes)
    assert adapter.scale == scale
    assert adapter.rank == max(min(shape) for shape in shapes.values())
    for name, change in folded.items():
        expected = change.double() + (0 if live is None else dense(live, name))
        torch.testing.assert_close(dense(adapter, name), expected, rtol=3e-7, atol=1e-9)


def test_a_scale_that_is_a_power_of_two_is_exact(make_adapter: MakeAdapter) -> None:
    folded = fold(None, make_adapter(rank=5))
    adapter = as_adapter(folded, None, 0.5)
    assert all(torch.equal(adapter.delta(name), folded[name]) for name in folded)


def test_the_shorter_side_is_the_rank() -> None:
    folded = {"tall": torch.randn(9, 2), "wide": torch.randn(3, 8)}
    adapter = as_adapter(folded, None, 1.0)
    assert adapter.rank == 3
    assert torch.equal(adapter.layers["wide"].B, torch.eye(3))
    assert torch.equal(adapter.layers["tall"].A, torch.eye(3, 2))  # a row of zeros fills it up


def test_what_was_folded_is_not_shared_with_its_adapter(make_adapter: MakeAdapter) -> None:
    folded = fold(None, make_adapter())
    before = {name: change.clone() for name, change in folded.items()}
    for factors in as_adapter(folded, None, 1.0).layers.values():
        factors.A.zero_()
        factors.B.zero_()
    assert all(torch.equal(folded[name], before[name]) for name in before)


def test_a_model_uses_the_adapter_as_it_uses_the_folded_base(
    tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter
) -> None:
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    first, second = make_adapter(rank=2, seed=1), make_adapter(rank=3, seed=2)
    path = tmp_path / "result.safetensors"
    save_adapter(as_adapter(fold(None, first), second, 1.0), path)
    with torch.no_grad():
        base = unet(images)
        lora.set_adapter(unet, load_adapter(path)[0])
        found = unet(images)
        lora.detach(unet)
        lora.fold(unet, first)
        lora.set_adapter(unet, second)
        expected = unet(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (expected - base).abs().max() > 0.01
