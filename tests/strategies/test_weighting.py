"""Weighting: shares, masses, and the norm of an adapter's product."""

import math
from functools import reduce
from operator import add

import pytest

from common.adapter import Adapter, Factors
from strategies import weighting
from tests.strategies.fakes import random_adapter
from tests.strategies.test_merging import SHAPES, ShapesSeen, dense


def test_shares_by_norm_are_in_proportion_and_sum_to_one() -> None:
    examples = {"GE": 10, "Philips": 20, "Siemens": 70}
    norms = {"Siemens": 1.0, "GE": 3.0, "Philips": 0.0}
    found = weighting.shares(examples, "norm", norms)
    assert found == {"GE": 0.75, "Philips": 0.0, "Siemens": 0.25}


def test_shares_by_norm_do_not_depend_on_the_order_of_sites() -> None:
    norms = {"a": 1e16, "b": 1.0, "c": 1.0, "d": 0.1}  # adding one by one depends on the order
    backwards = dict(reversed(norms.items()))
    assert reduce(add, norms.values()) != reduce(add, backwards.values())
    examples = dict.fromkeys(norms, 5)
    other = weighting.shares(dict(reversed(examples.items())), "norm", backwards)
    assert weighting.shares(examples, "norm", norms) == other


@pytest.mark.parametrize("lie", [10**3, 10**9])
@pytest.mark.parametrize("honest", [[10], [10, 12, 9], [10, 12, 9, 30]])
def test_a_site_that_says_it_is_huge_gets_a_bounded_share(honest: list[int], lie: int) -> None:
    sizes = {f"{n}": size for n, size in enumerate(honest)} | {"z": lie}
    by_examples = weighting.shares(sizes, "examples")
    by_norm = weighting.shares(sizes, "norm", {site: float(n) for site, n in sizes.items()})
    for found in (by_examples, by_norm):
        assert found["z"] <= 10 / 11
        assert sum(found.values()) == pytest.approx(1)


def test_sizes_that_are_alike_are_taken_as_they_are() -> None:
    sizes = {"a": 3, "b": 30, "c": 7}
    assert weighting.bounded(sizes) == sizes


def test_shares_by_norm_are_equal_where_no_adapter_changes_anything() -> None:
    found = weighting.shares({"a": 1, "b": 3}, "norm", {"a": 0.0, "b": 0.0})
    assert found == {"a": 0.5, "b": 0.5}


def test_shares_by_norm_are_of_the_sites_that_are_merged() -> None:
    norms = {"a": 1.0, "b": 3.0, "left out": 100.0}
    assert weighting.shares({"a": 1, "b": 1}, "norm", norms) == {"a": 0.25, "b": 0.75}


@pytest.mark.parametrize("rank", [1, 4, 30])
def test_the_product_norm_is_that_of_the_dense_products(rank: int) -> None:
    adapter = random_adapter(3, rank, SHAPES, scale=0.5)
    squares = [dense(adapter, layer).square().sum().item() for layer in SHAPES]
    assert weighting.product_norm(adapter) == pytest.approx(math.sqrt(sum(squares)), rel=1e-12)


def test_the_product_norm_does_not_depend_on_how_the_product_is_written() -> None:
    adapter = random_adapter(3, 4, SHAPES)
    uneven = {name: Factors(1024 * f.A, f.B / 1024) for name, f in adapter.layers.items()}
    found = weighting.product_norm(Adapter(uneven, adapter.scale))
    assert found == pytest.approx(weighting.product_norm(adapter), rel=1e-12)


def test_the_product_norm_of_huge_factors_is_finite_and_of_none_zero() -> None:
    adapter = random_adapter(3, 2, SHAPES)
    huge = {name: Factors(1e37 * f.A, 1e37 * f.B) for name, f in adapter.layers.items()}
    expected = pytest.approx(1e74 * weighting.product_norm(adapter), rel=1e-6)
    assert weighting.product_norm(Adapter(huge, 1.0)) == expected
    none = {name: Factors(f.A, 0 * f.B) for name, f in adapter.layers.items()}
    assert weighting.product_norm(Adapter(none, 1.0)) == 0


def test_the_product_norm_never_builds_the_dense_product() -> None:
    shape = (60, 90)
    adapter = random_adapter(0, 3, {"conv": shape})
    with ShapesSeen() as seen:
        weighting.product_norm(adapter)
    assert seen.shapes
    assert shape not in seen.shapes


def test_shares_by_site_and_by_examples() -> None:
    examples = {"GE": 10, "Philips": 20, "Siemens": 70}
    assert weighting.shares(examples, "site") == dict.fromkeys(examples, 1 / 3)
    assert weighting.shares(examples, "examples") == {"GE": 0.1, "Philips": 0.2, "Siemens": 0.7}


@pytest.mark.parametrize("normalise", [True, False])
def test_masses_of_equal_weights_are_the_shares_untouched(normalise: bool) -> None:
    share = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3 - 2**-54}  # a sum that is not quite one
    assert weighting.masses(share, dict.fromkeys(share, 1.0), normalise=normalise) == share


def test_masses_without_normalising_are_those_of_the_formula() -> None:
    share = {"a": 0.5, "b": 0.3, "c": 0.2}
    weights = {"a": 0.8, "b": 1.0, "c": 0.8}
    found = weighting.masses(share, weights, normalise=False)
    assert found == {"a": 0.5 * 0.8, "b": 0.3, "c": 0.2 * 0.8}


def test_normalised_masses_sum_to_one_in_the_same_proportions() -> None:
    share = {"a": 0.5, "b": 0.3, "c": 0.2}
    weights = {"a": 0.8, "b": 1.0, "c": 0.8}
    found = weighting.masses(share, weights, normalise=True)
    assert sum(found.values()) == pytest.approx(1, abs=1e-15)
    assert found["a"] / found["b"] == pytest.approx(0.5 * 0.8 / 0.3)
    assert found["c"] / found["b"] == pytest.approx(0.2 * 0.8 / 0.3)


def test_normalised_masses_of_weights_all_alike_are_the_shares() -> None:
    share = {"a": 0.75, "b": 0.25}
    for weight in (0.5, 0.0):  # λ = 1 while a site that did not train loses: nobody is left out
        found = weighting.masses(share, dict.fromkeys(share, weight), normalise=True)
        assert found == pytest.approx(share)


def test_whether_to_normalise_follows_the_merge_unless_set() -> None:
    assert weighting.normalises("auto", "svd")
    assert weighting.normalises("auto", "pad")
    assert weighting.normalises("auto", "residual")
    assert not weighting.normalises("auto", "fold")
    assert weighting.normalises("yes", "fold")
    assert not weighting.normalises("no", "svd")


def test_what_normalising_gives_the_others_it_takes_from_the_damped() -> None:
    share = {"a": 0.5, "b": 0.25, "c": 0.25}
    mass = weighting.masses(
        share, {"a": 0.8, "b": 1.0, "c": 1.0}, normalise=True
    )  # .4 : .25 : .25 of .9
    found = weighting.removed(share, mass)
    assert found == pytest.approx({"a": 1 / 9, "b": -1 / 9, "c": -1 / 9})
    assert sum(share[s] * found[s] for s in share) == pytest.approx(0.0)


def test_without_normalising_a_damped_site_loses_lambda() -> None:
    share = {"a": 0.5, "b": 0.5}
    mass = weighting.masses(share, {"a": 0.75, "b": 1.0}, normalise=False)
    assert weighting.removed(share, mass) == {"a": 0.25, "b": 0.0}


def test_nothing_is_removed_where_nobody_is_damped() -> None:
    share = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    mass = weighting.masses(share, dict.fromkeys(share, 1.0), normalise=True)
    assert weighting.removed(share, mass) == dict.fromkeys(share, 0.0)


def test_without_mass_all_is_removed_and_without_a_share_nothing() -> None:
    assert weighting.removed({"a": 0.5, "b": 0.5, "c": 0.0}, {"b": 0.5, "c": 0.1}) == {
        "a": 1.0, "b": 0.0, "c": 0.0,
    }  # fmt: skip
