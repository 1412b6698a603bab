"""Stacks and residuals, which go into the base, against dense sums in double precision."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor

from common.adapter import Adapter, Factors
from common.folding import fold
from strategies import merging
from tests.strategies.fakes import same_bits
from tests.strategies.test_merging import (
    MASS,
    RANKS,
    SHAPES,
    adapters_of,
    assert_near,
    dense,
    dense_mean,
)

Part = Callable[[Mapping[str, Adapter], Mapping[str, float]], Adapter]
MASSES = [MASS, {"GE": 0.2, "Philips": 0.4, "Siemens": 0.3}, dict.fromkeys(MASS, 1 / 3)]
"""Masses; the second set sums to 0.9, as after a penalty that is not normalised."""


def padded_means(
    adapters: Mapping[str, Adapter], mass: Mapping[str, float], layer: str
) -> tuple[Tensor, Tensor]:
    """Return Σ m_c A_c and Σ m_c B_c of the padded factors."""
    c_out, fan_in = SHAPES[layer]
    rank = max(adapter.rank for adapter in adapters.values())
    a = torch.zeros(rank, fan_in, dtype=torch.float64)
    b = torch.zeros(c_out, rank, dtype=torch.float64)
    for site, adapter in adapters.items():
        a[: adapter.rank] += mass[site] * adapter.layers[layer].A.double()
        b[:, : adapter.rank] += mass[site] * adapter.layers[layer].B.double()
    return a, b


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_stack_is_the_dense_sum(ranks: dict[str, int], mass: dict[str, float]) -> None:
    adapters = adapters_of(ranks)
    stacked = merging.stack(adapters, mass)
    stacked.check_fits(SHAPES)
    assert stacked.rank == sum(ranks.values())
    assert stacked.scale == 0.5
    for layer in SHAPES:
        assert_near(dense(stacked, layer), dense_mean(adapters, mass, layer))


def test_a_stack_leaves_a_alone_and_puts_the_masses_on_b() -> None:
    adapters = adapters_of(RANKS[1])
    stacked = merging.stack(adapters, MASS)
    for layer in SHAPES:
        a = torch.cat([adapters[site].layers[layer].A for site in sorted(adapters)])
        assert torch.equal(stacked.layers[layer].A, a)
        first = MASS["GE"] * adapters["GE"].layers[layer].B
        assert torch.equal(stacked.layers[layer].B[:, : adapters["GE"].rank], first)


def test_a_stack_of_one_site_is_its_adapter() -> None:
    adapters = adapters_of({"GE": 3})
    assert same_bits(merging.stack(adapters, {"GE": 1.0}), adapters["GE"])


def test_a_site_without_mass_adds_nothing() -> None:
    adapters = adapters_of(RANKS[1])
    without = {site: adapters[site] for site in ("GE", "Philips")}
    mass = {"GE": 0.4, "Philips": 0.6, "Siemens": 0.0}
    for part in (merging.stack, merging.residual):
        one, other = part(adapters, mass), part(without, mass)
        for layer in SHAPES:
            assert_near(dense(one, layer), dense(other, layer))


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("ranks", RANKS)
def test_a_residual_is_what_pad_misses(ranks: dict[str, int], mass: dict[str, float]) -> None:
    adapters = adapters_of(ranks)
    residual = merging.residual(adapters, mass)
    residual.check_fits(SHAPES)
    assert residual.scale == 0.5
    for layer in SHAPES:
        a, b = padded_means(adapters, mass, layer)
        expected = dense_mean(adapters, mass, layer) - 0.5 * b @ a
        assert_near(dense(residual, layer), expected)


@pytest.mark.parametrize("mass", MASSES)
@pytest.mark.parametrize("ranks", RANKS)
def test_pad_and_its_residual_are_the_sum_of_products(
    ranks: dict[str, int], mass: dict[str, float]
) -> None:
    adapters = adapters_of(ranks)
    merged = merging.merge(adapters, mass, "residual", rank=5)
    assert same_bits(merged, merging.merge(adapters, mass, "pad", rank=5))
    folded = fold(None, merging.residual(adapters, mass))
    for layer in SHAPES:
        both = folded[layer] + dense(merged, layer)
        assert_near(both, dense_mean(adapters, mass, layer))


def test_the_rank_of_a_residual_is_the_lowest_known() -> None:
    equal, mixed = adapters_of(RANKS[0]), adapters_of(RANKS[1])
    assert merging.residual(equal, MASSES[0]).rank == 2 * 4  # one block is the others' negative
    assert merging.residual(equal, MASSES[2]).rank == 2 * 4  # three thirds, as floats
    assert merging.residual(equal, MASSES[1]).rank == 3 * 4
    assert merging.residual(mixed, MASSES[0]).rank == 1 + 4 + 2


def test_one_site_alone_has_no_residual() -> None:
    adapters = adapters_of({"GE": 3})
    residual = merging.residual(adapters, {"GE": 1.0})
    assert residual.rank == 0
    residual.check_fits(SHAPES)
    assert not any(change.any() for change in fold(None, residual).values())
    damped = merging.residual(adapters, {"GE": 0.8})
    for layer in SHAPES:  # 0.8 B A − 0.64 B A
        assert_near(dense(damped, layer), 0.16 * dense(adapters["GE"], layer))


@pytest.mark.parametrize("kind", ["A", "B"])
def test_where_one_factor_is_shared_pad_misses_nothing(kind: str) -> None:
    adapters = adapters_of(RANKS[0])
    shared = adapters["GE"]
    for site, adapter in adapters.items():
        layers = {
            name: f._replace(**{kind: getattr(shared.layers[name], kind)})
            for name, f in adapter.layers.items()
        }
        adapters[site] = Adapter(layers, adapter.scale)
    residual = merging.residual(adapters, MASS)
    for layer in SHAPES:
        most = dense_mean(adapters, MASS, layer).abs().max()
        assert dense(residual, layer).abs().max() < 1e-6 * most


@pytest.mark.parametrize("part", [merging.stack, merging.residual])
@pytest.mark.parametrize("ranks", RANKS)
def test_the_order_of_sites_does_not_matter(part: Part, ranks: dict[str, int]) -> None:
    adapters = adapters_of(ranks)
    expected = part(adapters, MASS)
    for order in (["Siemens", "GE", "Philips"], ["Philips", "Siemens", "GE"]):
        shuffled = part({s: adapters[s] for s in order}, {s: MASS[s] for s in order})
        assert same_bits(expected, shuffled)


def test_the_sites_adapters_are_left_alone() -> None:
    adapters, untouched = adapters_of(RANKS[0]), adapters_of(RANKS[0])
    for part in (merging.stack, merging.residual):
        for factors in part(adapters, MASS).layers.values():
            factors.A.zero_()
            factors.B.zero_()
    assert all(same_bits(adapters[site], untouched[site]) for site in adapters)


def test_a_small_difference_of_sites_keeps_its_precision() -> None:
    start = adapters_of({"GE": 4})["GE"]
    adapters = {}
    for site, other in adapters_of(RANKS[0]).items():  # a first step away from a common start
        layers = {
            name: Factors(f.A + 1e-3 * other.layers[name].A, f.B + 1e-3 * other.layers[name].B)
            for name, f in start.layers.items()
        }
        adapters[site] = Adapter(layers, start.scale)
    residual = merging.residual(adapters, MASS)
    for layer in SHAPES:
        a, b = padded_means(adapters, MASS, layer)
        expected = dense_mean(adapters, MASS, layer) - 0.5 * b @ a  # a millionth of the products
        error = (dense(residual, layer) - expected).abs().max()
        assert error < 1e-3 * expected.abs().max()
