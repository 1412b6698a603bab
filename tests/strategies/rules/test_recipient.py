"""Masses for each recipient: examples by hand, and properties on random rounds."""

import itertools
import math
import random

import pytest

from strategies.rules.recipient import recipient_masses
from tests.strategies.rules.samples import (
    SHARE,
    backwards,
    numbers,
    on_simplex,
    rated,
    rule,
    updates,
)


def test_masses_of_a_recipient_by_hand() -> None:
    found = recipient_masses({"a": {"a": 0.8, "b": 0.8 - 0.1 * math.log(3)}}, {}, 0.1)
    assert found == {"a": pytest.approx({"a": 0.75, "b": 0.25})}


def test_a_sender_worse_than_the_start_is_left_out() -> None:
    rows = {"a": {"a": 0.8, "b": 0.8, "c": 0.6}}
    assert recipient_masses(rows, {"a": 0.7}, 0.1) == {"a": {"a": 0.5, "b": 0.5, "c": 0.0}}
    assert recipient_masses(rows, {"a": 0.6}, 0.1)["a"]["c"] > 0


def test_where_none_reaches_the_start_all_rated_count() -> None:
    rows = {"a": {"a": 0.5, "b": 0.5, "c": math.nan}}
    assert recipient_masses(rows, {"a": 0.9}, 0.1) == {"a": {"a": 0.5, "b": 0.5, "c": 0.0}}


def test_who_was_not_rated_has_no_mass() -> None:
    rows = {"a": {"a": 0.5, "b": math.nan}, "b": {"a": 0.5, "b": 0.5, "c": 0.5}}
    found = recipient_masses(rows, {}, 0.1)
    assert found["a"] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert found["b"] == pytest.approx(dict.fromkeys("abc", 1 / 3))


@pytest.mark.parametrize("row", [{}, {"a": math.nan, "b": math.nan}])
def test_a_recipient_without_ratings_weighs_all_alike(row: dict[str, float]) -> None:
    rows = {"a": row, "b": {"a": 0.5, "b": 0.9}}
    assert recipient_masses(rows, {"a": 0.4}, 0.1)["a"] == {"a": 0.5, "b": 0.5}
    assert recipient_masses({"b": rows["b"]}, {"a": 0.4}, 0.1)["a"] == {"a": 0.5, "b": 0.5}


def test_the_temperature_goes_from_the_best_alone_to_all_alike() -> None:
    rows = {"a": {"a": 0.9, "b": 0.8, "c": 0.1}}
    assert recipient_masses(rows, {}, 1e-9)["a"] == {"a": 1.0, "b": 0.0, "c": 0.0}
    assert recipient_masses(rows, {}, 1e9)["a"] == pytest.approx(dict.fromkeys("abc", 1 / 3))


def test_masses_sum_to_one_in_any_order_and_better_is_never_less() -> None:
    draw = random.Random(0)  # noqa: S311
    for _ in range(200):
        rows = {
            r: {c: d for c, d in numbers(draw, "abcd").items() if draw.random() < 0.8}
            for r in "abcd"
        }
        start = {r: s for r, s in numbers(draw, "abcd").items() if draw.random() < 0.8}
        found = recipient_masses(rows, start, 0.05)
        turned = {r: backwards(rows[r]) for r in "dcba"}
        assert found == recipient_masses(turned, backwards(start), 0.05)
        for recipient, masses in found.items():
            assert on_simplex(masses)
            ranked = sorted(rows[recipient], key=rows[recipient].__getitem__)
            for worse, better in itertools.pairwise(ranked):
                assert masses[worse] <= masses[better]


def test_every_recipient_prefers_what_is_good_for_it() -> None:
    found = rule("recipient")
    share = found.shares(1, SHARE, updates(start=0.5))
    assert found.others(1, share)[1] == {"GE": 0.0, "Philips": 1.0, "Siemens": 0.0}
    dice = [(0.6, 0.7, 0.4, 0.6), (0.6, 0.6, 0.8, 0.6), (0.6, 0.6, 0.6, 0.6)]
    settled = found.settle(1, share, rated(*dice), {})
    assert settled.personal["GE"]["GE"] > settled.personal["GE"]["Siemens"] > 0
    assert settled.personal["GE"]["Philips"] == 0  # worse than what it started from
    assert settled.personal["Siemens"] == pytest.approx(SHARE)
    assert settled.masses == SHARE
