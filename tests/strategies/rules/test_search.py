"""The pattern search: examples by hand, and properties on random rounds."""

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import pytest

from strategies.rules.search import candidates, choose, next_step
from tests.strategies.rules.samples import (
    SHARE,
    SITES,
    backwards,
    on_simplex,
    point,
    rated,
    rule,
    updates,
)


def test_candidates_by_hand() -> None:
    weights = {"GE": 0.5, "Philips": 0.25, "Siemens": 0.25}
    assert candidates(weights, 0.5, SITES) == [
        weights,
        {"GE": 0.75, "Philips": 0.125, "Siemens": 0.125},
        {"GE": 0.25, "Philips": 0.625, "Siemens": 0.125},
        {"GE": 0.25, "Philips": 0.125, "Siemens": 0.625},
    ]


def test_candidates_stay_on_the_simplex() -> None:
    draw = random.Random(0)  # noqa: S311
    for _ in range(200):
        weights, step = point(draw, "abcd"), draw.choice([1e-6, 0.2, 1.0])
        found = candidates(weights, step, "abcd")
        assert found[0] == weights
        assert all(on_simplex(candidate) for candidate in found)
        for site, candidate in zip("abcd", found[1:], strict=True):
            assert candidate[site] >= weights[site]
            assert all(candidate[s] <= weights[s] for s in set("abcd") - {site})


def test_weights_of_absent_sites_are_left_out_and_new_ones_begin_as_equals() -> None:
    weights = {"GE": 0.5, "Philips": 0.25, "Siemens": 0.25}
    away = candidates(weights, 0.5, ["Philips", "Siemens"])
    assert away == [
        {"Philips": 0.5, "Siemens": 0.5},
        {"Philips": 0.75, "Siemens": 0.25},
        {"Philips": 0.25, "Siemens": 0.75},
    ]
    new = candidates({"GE": 0.5, "Philips": 0.5}, 0.5, SITES)[0]
    assert new == pytest.approx({"GE": 0.375, "Philips": 0.375, "Siemens": 0.25})
    nothing = candidates({"GE": 1.0, "Philips": 0.0, "Siemens": 0.0}, 0.5, ["Philips", "Siemens"])
    assert nothing[0] == {"Philips": 0.5, "Siemens": 0.5}


def test_the_highest_mean_is_chosen_and_the_first_of_equals() -> None:
    tried = candidates({"a": 0.5, "b": 0.5}, 0.2, "ab")
    dice = [{"a": 0.5, "b": 0.75}, {"a": 0.25, "b": 0.5}, {"a": 0.75, "b": 0.75}]
    assert choose(tried, dice) == (2, 0.75)
    assert choose(tried, [dice[0]] * 3) == (0, 0.625)
    assert choose(tried, [dice[1], dice[0], backwards(dice[0])]) == (1, 0.625)


def test_only_sites_that_rated_every_candidate_count() -> None:
    tried = candidates({"a": 0.5, "b": 0.5}, 0.2, "ab")
    both = {"a": 0.5, "b": 0.5}
    assert choose(tried, [both, {"b": 1.0}, {"a": 1.0, "b": 0.25}]) == (1, 1.0)
    assert choose(tried, [both, {"a": math.nan, "b": 1.0}, both]) == (1, 1.0)
    assert choose(tried, [both, {"a": 1.0}, {"b": 1.0}]) == (0, None)
    assert choose(tried, [{}, {}, {}]) == (0, None)


def test_the_step_is_halved_where_the_present_point_won() -> None:
    assert next_step(0.2, improved=True) == 0.2
    assert next_step(0.2, improved=False) == 0.1


@pytest.mark.parametrize(
    "best", [{"a": 0.7, "b": 0.2, "c": 0.1}, {"a": 0.0, "b": 0.5, "c": 0.5}], ids=["in", "edge"]
)
def test_the_search_finds_the_best_point_and_never_gets_worse(best: dict[str, float]) -> None:
    """Dice is a smooth hill. Moves shrink masses but never to 0, hence the tolerance."""

    def dice(weights: Mapping[str, float]) -> dict[str, float]:
        hill = 1 - sum((weights[s] - best[s]) ** 2 for s in best)
        return {"GE": hill, "Philips": hill / 2}

    weights, step = dict.fromkeys("abc", 1 / 3), 0.2
    means = []
    for _ in range(60):
        tried = candidates(weights, step, "abc")
        index, mean = choose(tried, [dice(candidate) for candidate in tried])
        weights, step = tried[index], next_step(step, improved=index != 0)
        assert mean is not None
        means.append(mean)
    assert all(later >= earlier for earlier, later in itertools.pairwise(means))
    assert weights == pytest.approx(best, abs=0.02)


def test_search_goes_to_the_best_and_halves_its_step_where_it_stands() -> None:
    memory: dict[str, Any] = {}
    found = rule("search", memory)
    better = [(0.5, 0.5, 0.7, 0.5)] * 3  # the move towards Philips
    settled = found.settle(1, SHARE, rated(*better), {})
    assert settled.masses["Philips"] == pytest.approx(1 / 3 + 0.2 * 2 / 3)
    assert found.shares(2, SHARE, updates()) == pytest.approx(settled.masses)
    stay = [(0.7, 0.5, 0.5, 0.5)] * 3
    found.settle(2, settled.masses, rated(*stay), {})
    assert memory["step"] == pytest.approx(0.1)
    assert found.shares(3, SHARE, updates()) == pytest.approx(settled.masses)
