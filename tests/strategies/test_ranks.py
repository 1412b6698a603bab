"""The rank that each site gets."""

import pytest

from common.errors import UserError
from common.ranks import highest_rank
from strategies.ranks import assign_ranks

EXAMPLES = {"Siemens": 200, "GE": 100, "Philips": 190}


def test_equal_ranks() -> None:
    assert assign_ranks("equal", 8, EXAMPLES) == {"GE": 8, "Philips": 8, "Siemens": 8}


def test_ranks_by_size_halve_with_the_size() -> None:
    assert assign_ranks("by-size", 32, EXAMPLES) == {"GE": 16, "Philips": 32, "Siemens": 32}
    sizes = {"a": 800, "b": 400, "c": 200, "d": 100}
    assert assign_ranks("by-size", 32, sizes) == {"a": 32, "b": 16, "c": 8, "d": 4}


@pytest.mark.parametrize("rank", [1, 2, 3, 32])
def test_ranks_by_size_are_never_below_one_nor_above_the_highest(rank: int) -> None:
    found = assign_ranks("by-size", rank, {f"{n}": n for n in (1, 3, 10, 100, 1000, 10**6)})
    assert found["1"] == 1
    assert found["1000000"] == rank
    by_size = [found[name] for name in sorted(found, key=int)]
    assert by_size == sorted(by_size)


@pytest.mark.parametrize("lie", [200, 10**9])
def test_a_site_that_says_it_is_huge_does_not_lower_the_others(lie: int) -> None:
    honest = {"a": 10, "b": 20, "c": 12, "z": 9}
    found = assign_ranks("by-size", 32, {**honest, "z": lie})
    assert found == {**assign_ranks("by-size", 32, honest), "z": 32}


def test_a_plain_list_goes_by_the_order_of_names() -> None:
    found = assign_ranks(" 16, 32,64", 8, EXAMPLES)
    assert found == {"GE": 16, "Philips": 32, "Siemens": 64}


def test_pairs_go_by_name_and_may_name_sites_that_are_not_there() -> None:
    found = assign_ranks("Siemens=32, GE = 16,Philips=8,Canon=4", 8, EXAMPLES)
    assert found == {"GE": 16, "Philips": 8, "Siemens": 32}


def test_a_site_that_the_list_lacks_gets_its_lowest_rank() -> None:
    assert assign_ranks("GE=16,Canon=4", 8, EXAMPLES) == {"GE": 16, "Philips": 4, "Siemens": 4}


def test_a_name_may_contain_an_equals_sign() -> None:
    assert assign_ranks("a=b=3", 8, {"a=b": 10}) == {"a=b": 3}


@pytest.mark.parametrize(
    ("ranks", "found"),
    [
        ("16,32", "'16,32'"),
        ("16,32,32,32", "'16,32,32,32'"),
        ("GE=16,Philips=32,Siemens=0", "'Siemens=0'"),
        ("16,-32,32", "'-32'"),
        ("16,32.0,32", "'32.0'"),
        ("16,²,32", "'²'"),
        (f"16,{'9' * 5000},32", "'16,999"),
        ("by size", "'by size'"),
        ("", "''"),
        ("GE=16,GE=32,Philips=32,Siemens=32", "'GE'"),
        ("16,32,64,GE=8", "'16,32,64,GE=8'"),
    ],
)
def test_ranks_that_do_not_fit_the_sites_are_named(ranks: str, found: str) -> None:
    with pytest.raises(UserError, match=r"^ranks: ") as caught:
        assign_ranks(ranks, 32, EXAMPLES)
    assert found in str(caught.value)


@pytest.mark.parametrize("ranks", ["equal", "by-size", "16,32,8", "GE=16,Philips=32,Siemens=8"])
def test_the_highest_rank_is_known_before_the_sites(ranks: str) -> None:
    assert highest_rank(ranks, 24) == max(assign_ranks(ranks, 24, EXAMPLES).values())


def test_the_highest_rank_covers_sites_that_are_not_there() -> None:
    ranks = "GE=16,Philips=32,Siemens=8,Canon=64"
    assert highest_rank(ranks, 24) == 64
    assert max(assign_ranks(ranks, 24, EXAMPLES).values()) < 64
