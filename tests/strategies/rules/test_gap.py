"""FedDG-GA: examples by hand, and properties on random rounds."""

import random
from typing import Any

import pytest

from strategies.rules.gap import gap_shares, gap_step
from tests.strategies.rules.samples import (
    SHARE,
    SITES,
    backwards,
    numbers,
    on_simplex,
    point,
    rule,
    updates,
)


def test_a_larger_gap_gets_a_larger_share_by_hand() -> None:
    local = {"GE": 0.9, "Philips": 0.8, "Siemens": 0.7}
    merged = {"GE": 0.7, "Philips": 0.7, "Siemens": 0.7}  # gaps 0.2, 0.1, 0; mean 0.1
    found = gap_shares(SHARE, local, merged, 0.1)
    assert found == pytest.approx({"GE": 1 / 3 + 0.1, "Philips": 1 / 3, "Siemens": 1 / 3 - 0.1})


def test_the_gap_farthest_from_the_mean_moves_a_whole_step_others_in_proportion() -> None:
    local = {"GE": 0.8, "Philips": 0.5, "Siemens": 0.5}
    merged = dict.fromkeys(SITES, 0.5)  # gaps 0.3, 0, 0; mean 0.1; deviations 0.2, −0.1, −0.1
    found = gap_shares(SHARE, local, merged, 0.1)
    assert found == pytest.approx({"GE": 1 / 3 + 0.1, "Philips": 0.85 / 3, "Siemens": 0.85 / 3})


def test_shares_are_clipped_and_sum_to_one_by_hand() -> None:
    shares = {"a": 0.9, "b": 0.1}
    merged = {"a": 0.5, "b": 0.5}
    assert gap_shares(shares, {"a": 0.7, "b": 0.5}, merged, 0.2) == {"a": 1.0, "b": 0.0}
    found = gap_shares({"a": 0.5, "b": 0.4, "c": 0.1}, {"a": 0.7, "b": 0.6, "c": 0.5},
                       {"a": 0.5, "b": 0.5, "c": 0.5}, 0.3)  # fmt: skip
    assert found == pytest.approx({"a": 0.8 / 1.2, "b": 0.4 / 1.2, "c": 0.0})
    found = gap_shares({"a": 0.8, "b": 0.125, "c": 0.075}, {"a": 0.7, "b": 0.6, "c": 0.5},
                       {"a": 0.5, "b": 0.5, "c": 0.5}, 0.4)  # fmt: skip
    assert found == pytest.approx({"a": 1 / 1.125, "b": 0.125 / 1.125, "c": 0.0})  # a: 1.2 to 1


def test_equal_gaps_move_nothing_even_where_they_differ_by_rounding() -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    local = {"a": 0.3, "b": 0.4, "c": 0.9}
    merged = {"a": 0.2, "b": 0.3, "c": 0.8}
    assert len({local[s] - merged[s] for s in shares}) > 1
    assert gap_shares(shares, local, merged, 0.5) == shares


@pytest.mark.parametrize("reports", [{}, {"GE": 0.9}, {"elsewhere": 0.2, "GE": 0.9}])
def test_fewer_than_two_gaps_move_nothing(reports: dict[str, float]) -> None:
    assert gap_shares(SHARE, reports, dict.fromkeys(SITES, 0.5), 0.1) == SHARE
    assert gap_shares(SHARE, dict.fromkeys(SITES, 0.5), reports, 0.1) == SHARE


def test_a_site_without_both_numbers_keeps_its_share() -> None:
    local = {"GE": 0.9, "Philips": 0.8, "Siemens": 0.7}
    found = gap_shares(SHARE, local, {"GE": 0.5, "Siemens": 0.5}, 0.1)
    assert found["Philips"] == 1 / 3
    assert found == pytest.approx({"GE": 1 / 3 + 0.1, "Philips": 1 / 3, "Siemens": 1 / 3 - 0.1})


def test_sites_without_any_share_stay_without() -> None:
    shares = {"a": 0.0, "b": 0.0, "c": 1.0}
    found = gap_shares(shares, {"a": 0.9, "b": 0.8}, {"a": 0.5, "b": 0.5}, 0.0)
    assert found == shares


def test_shares_stay_on_the_simplex_in_any_order() -> None:
    draw = random.Random(0)  # noqa: S311
    clipped = 0
    for _ in range(300):
        shares = point(draw, "abcde")
        local, merged = (
            {s: p for s, p in numbers(draw, "abcde").items() if draw.random() < 0.9}
            for _ in range(2)
        )
        found = gap_shares(shares, local, merged, 0.2)
        assert on_simplex(found)
        turned = [backwards(values) for values in (shares, local, merged)]
        assert found == gap_shares(turned[0], turned[1], turned[2], 0.2)
        clipped += any(found[s] == 0 < shares[s] for s in "abcde")
    assert clipped > 30


def test_the_step_falls_linearly_and_the_last_round_still_moves() -> None:
    assert [gap_step(0.2, t, 4) for t in range(1, 5)] == pytest.approx([0.2, 0.15, 0.1, 0.05])
    assert gap_step(0.2, 1, 1) == 0.2
    assert gap_step(0.2, 6, 4) == 0.0


def test_gap_gives_more_to_the_site_that_the_merge_hurts() -> None:
    found = rule("gap", rounds=10)
    assert found.shares(1, SHARE, updates(GE=0.9)) == pytest.approx(SHARE)  # nothing to compare yet
    moved = found.shares(2, SHARE, updates(start=0.5))
    assert moved["GE"] > 1 / 3 > moved["Siemens"]


def test_a_site_that_was_away_keeps_its_share() -> None:
    memory: dict[str, Any] = {"shares": {"GE": 0.6, "Philips": 0.2, "Siemens": 0.2}}
    found = rule("gap", memory)
    here = {site: update for site, update in updates().items() if site != "GE"}
    assert found.shares(2, dict.fromkeys(here, 0.5), here) == pytest.approx(
        {"Philips": 0.5, "Siemens": 0.5}
    )
    assert memory["shares"]["GE"] == 0.6
