"""Merging, against direct dense computation in double precision."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from common import folding
from common.adapter import Adapter, Factors
from strategies import merging
from tests.strategies.fakes import random_adapter, same_bits

SHAPES = {"narrow": (3, 5), "tall": (20, 9), "wide": (8, 27)}
RANKS = [{"GE": 4, "Philips": 4, "Siemens": 4}, {"GE": 1, "Philips": 4, "Siemens": 2}]
MASS = {"GE": 0.2, "Philips": 0.5, "Siemens": 0.3}


def adapters_of(ranks: Mapping[str, int], scale: float = 0.5) -> dict[str, Adapter]:
    return {
        site: random_adapter(seed, rank, SHAPES, scale)
        for seed, (site, rank) in enumerate(ranks.items())
    }


def dense(adapter: Adapter, layer: str) -> Tensor:
    factors = adapter.layers[layer]
    return adapter.scale * (factors.B.double() @ factors.A.double())


def dense_mean(adapters: Mapping[str, Adapter], mass: Mapping[str, float], layer: str) -> Tensor:
    return torch.stack([mass[s] * dense(a, layer) for s, a in adapters.items()]).sum(dim=0)


def eckart_young(matrix: Tensor, rank: int) -> Tensor:
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    best: Tensor = u[:, :rank] @ torch.diag(s[:rank]) @ vt[:rank]
    return best


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("ranks", RANKS)
def test_svd_is_the_truncated_svd_of_the_dense_mean(ranks: dict[str, int]) -> None:
    adapters = adapters_of(ranks)
    merged = merging.merge(adapters, MASS, "svd")
    assert merged.rank == max(ranks.values())
    assert merged.scale == 0.5
    merged.check_fits(SHAPES)
    for layer in SHAPES:
        expected = eckart_young(dense_mean(adapters, MASS, layer), merged.rank)
        assert_near(dense(merged, layer), expected)


@pytest.mark.parametrize("ranks", RANKS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_truncating_an_svd_merge_is_the_best_of_the_lower_rank(
    ranks: dict[str, int], rank: int
) -> None:
    adapters = adapters_of(ranks)
    merged = merging.merge(adapters, MASS, "svd").truncated(rank)
    assert merged.rank == rank
    for layer in SHAPES:
        expected = eckart_young(dense_mean(adapters, MASS, layer), rank)
        assert_near(dense(merged, layer), expected)


def test_svd_is_the_exact_mean_where_the_rank_suffices() -> None:
    shared = random_adapter(9, 4, SHAPES)  # sites that moved B alone: the mean has rank 4
    adapters = {
        site: Adapter(
            {
                n: Factors(shared.layers[n].A, f.B)
                for n, f in random_adapter(i, 4, SHAPES).layers.items()
            },
            1.0,
        )
        for i, site in enumerate(MASS)
    }
    merged = merging.merge(adapters, MASS, "svd")
    for layer in SHAPES:
        assert_near(dense(merged, layer), dense_mean(adapters, MASS, layer))


def test_svd_of_a_layer_narrower_than_the_ranks_is_exact() -> None:
    adapters = adapters_of({"GE": 7, "Philips": 9, "Siemens": 12})  # 28 in all, of width 3
    merged = merging.merge(adapters, MASS, "svd")
    assert merged.layers["narrow"].A.shape == (12, 5)
    assert merged.layers["narrow"].B.shape == (3, 12)
    for layer in ("narrow", "wide", "tall"):
        assert_near(dense(merged, layer), dense_mean(adapters, MASS, layer))


@pytest.mark.parametrize("block", [0, 7, 14])
def test_svd_of_many_components_is_that_of_few(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    adapters = adapters_of({"GE": 12, "Philips": 16, "Siemens": 2})  # 30, more than any side
    by_factors = merging.merge(adapters, MASS, "svd").truncated(3)
    monkeypatch.setattr(merging, "BLOCK", block)
    monkeypatch.setattr(folding, "BLOCK", max(block, 1))
    multiplied_out = merging.merge(adapters, MASS, "svd").truncated(3)
    for layer in SHAPES:
        assert_near(multiplied_out.layers[layer].A, by_factors.layers[layer].A)
        assert_near(multiplied_out.layers[layer].B, by_factors.layers[layer].B)


def test_a_merge_can_be_asked_for_a_rank_above_that_of_the_sites() -> None:
    adapters = adapters_of({"GE": 2, "Philips": 2, "Siemens": 2})
    exact = merging.merge(adapters, MASS, "svd", rank=6)
    assert exact.rank == 6
    padded = merging.merge(adapters, MASS, "pad", rank=6)
    assert padded.rank == 6
    for layer in SHAPES:
        assert_near(dense(exact, layer), dense_mean(adapters, MASS, layer))
    assert same_bits(padded.truncated(2), merging.merge(adapters, MASS, "pad"))
    assert not padded.layers["wide"].A[2:].any()


@pytest.mark.parametrize("how", ["svd", "pad"])
def test_one_site_alone_comes_back(how: str) -> None:
    (site, adapter), *_ = adapters_of({"GE": 3}).items()
    merged = merging.merge({site: adapter}, {site: 1.0}, how)
    for layer in SHAPES:
        assert_near(dense(merged, layer), dense(adapter, layer))
    if how == "pad":
        assert same_bits(merged, adapter)


def test_pad_of_equal_ranks_averages_the_factors() -> None:
    adapters = adapters_of(RANKS[0])
    merged = merging.merge(adapters, dict.fromkeys(adapters, 1 / 3), "pad")
    for layer in SHAPES:
        for kind in ("A", "B"):
            mean = torch.stack([getattr(a.layers[layer], kind).double() for a in adapters.values()])
            torch.testing.assert_close(
                getattr(merged.layers[layer], kind), mean.mean(dim=0).float(), rtol=0, atol=1e-6
            )


def test_the_product_of_pad_is_not_the_mean_of_products() -> None:
    adapters = adapters_of(RANKS[0])
    merged = merging.merge(adapters, MASS, "pad")
    difference = dense(merged, "wide") - dense_mean(adapters, MASS, "wide")
    assert difference.norm() > 0.1 * dense_mean(adapters, MASS, "wide").norm()


def test_pad_of_mixed_ranks_is_that_of_factors_padded_by_hand() -> None:
    adapters = adapters_of(RANKS[1])
    merged = merging.merge(adapters, MASS, "pad")
    assert merged.rank == 4
    for layer, (c_out, fan_in) in SHAPES.items():
        a = torch.zeros(4, fan_in, dtype=torch.float64)
        b = torch.zeros(c_out, 4, dtype=torch.float64)
        for site in sorted(adapters):
            rank = adapters[site].rank
            a[:rank] += MASS[site] * adapters[site].layers[layer].A.double()
            b[:, :rank] += MASS[site] * adapters[site].layers[layer].B.double()
        assert torch.equal(merged.layers[layer].A, a.float())
        assert torch.equal(merged.layers[layer].B, b.float())


@pytest.mark.parametrize("how", ["svd", "pad"])
@pytest.mark.parametrize("ranks", RANKS)
def test_the_order_of_sites_does_not_matter(how: str, ranks: dict[str, int]) -> None:
    adapters = adapters_of(ranks)
    merged = merging.merge(adapters, MASS, how)
    for order in (["Siemens", "GE", "Philips"], ["Philips", "Siemens", "GE"]):
        shuffled = merging.merge({s: adapters[s] for s in order}, {s: MASS[s] for s in order}, how)
        assert same_bits(merged, shuffled)


def test_signs_do_not_depend_on_those_of_the_sites() -> None:
    adapters = adapters_of(RANKS[1])
    flipped = {
        site: Adapter({n: Factors(-f.A, -f.B) for n, f in a.layers.items()}, a.scale)
        for site, a in adapters.items()
    }  # the same products
    one, other = merging.merge(adapters, MASS, "svd"), merging.merge(flipped, MASS, "svd")
    for layer in SHAPES:
        b = one.layers[layer].B
        used = b.abs().sum(dim=0) > 0
        largest = b.gather(0, b.abs().argmax(dim=0, keepdim=True))[0]
        assert (largest[used] > 0).all()
        assert_near(one.layers[layer].A, other.layers[layer].A)
        assert_near(one.layers[layer].B, other.layers[layer].B)


def test_components_are_balanced_and_ordered_by_strength() -> None:
    merged = merging.merge(adapters_of(RANKS[0]), MASS, "svd")
    for factors in merged.layers.values():
        strength = factors.A.norm(dim=1)
        torch.testing.assert_close(strength, factors.B.norm(dim=0), rtol=1e-5, atol=1e-6)
        assert (strength.diff() <= 1e-6).all()


class ShapesSeen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the shapes of all tensors that operations return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else [found]:
            if isinstance(value, Tensor):
                self.shapes.add(tuple(value.shape))
        return found


@pytest.mark.parametrize("how", ["svd", "pad", "stack", "residual"])
@pytest.mark.parametrize("ranks", [(3, 3, 3), (2, 3, 4)])
def test_a_merge_never_builds_the_dense_product(how: str, ranks: tuple[int, ...]) -> None:
    shape = (60, 90)
    sites = {f"site {i}": random_adapter(i, rank, {"conv": shape}) for i, rank in enumerate(ranks)}
    mass = dict.fromkeys(sites, 1 / 3)
    with ShapesSeen() as control:
        next(iter(sites.values())).delta("conv")
    assert shape in control.shapes
    with ShapesSeen() as seen:
        if how == "stack":
            merging.stack(sites, mass)
        elif how == "residual":
            merging.residual(sites, mass)
        else:
            merging.merge(sites, mass, how)
    assert seen.shapes
    stacks = sum(ranks) * max(shape)
    assert [s for s in seen.shapes if math.prod(s) > stacks] == []
