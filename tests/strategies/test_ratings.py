"""Ratings beside the penalty: examples by hand, and what holds on random rounds."""

import itertools
import math
import random
from collections.abc import Mapping

import pytest

from strategies.ratings import (
    candidates,
    choose,
    gap_shares,
    gap_step,
    next_step,
    recipient_masses,
)

SITES = ("GE", "Philips", "Siemens")
EQUAL = dict.fromkeys(SITES, 1 / 3)


def numbers(draw: random.Random, sites: str) -> dict[str, float]:
    return {site: draw.random() for site in sites}


def point(draw: random.Random, sites: str) -> dict[str, float]:
    raw = {site: draw.choice([0.0, draw.random()]) for site in sites}
    total = sum(raw.values())
    return {s: w / total for s, w in raw.items()} if total else dict.fromkeys(sites, 1 / len(sites))


def on_simplex(weights: Mapping[str, float]) -> bool:
    inside = all(0 <= w <= 1 + 1e-12 for w in weights.values())
    return inside and math.isclose(math.fsum(weights.values()), 1.0, abs_tol=1e-12)


def backwards(values: Mapping[str, float]) -> dict[str, float]:
    return {site: values[site] for site in reversed(list(values))}


# gap


def test_a_larger_gap_gets_a_larger_share_by_hand() -> None:
    local = {"GE": 0.9, "Philips": 0.8, "Siemens": 0.7}
    merged = {"GE": 0.7, "Philips": 0.7, "Siemens": 0.7}  # gaps 0.2, 0.1, 0; mean 0.1
    found = gap_shares(EQUAL, local, merged, 0.1)
    assert found == pytest.approx({"GE": 1 / 3 + 0.1, "Philips": 1 / 3, "Siemens": 1 / 3 - 0.1})


def test_the_gap_farthest_from_the_mean_moves_a_whole_step_others_in_proportion() -> None:
    local = {"GE": 0.8, "Philips": 0.5, "Siemens": 0.5}
    merged = dict.fromkeys(SITES, 0.5)  # gaps 0.3, 0, 0; mean 0.1; deviations 0.2, −0.1, −0.1
    found = gap_shares(EQUAL, local, merged, 0.1)
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
    assert gap_shares(EQUAL, reports, dict.fromkeys(SITES, 0.5), 0.1) == EQUAL
    assert gap_shares(EQUAL, dict.fromkeys(SITES, 0.5), reports, 0.1) == EQUAL


def test_a_site_without_both_numbers_keeps_its_share() -> None:
    local = {"GE": 0.9, "Philips": 0.8, "Siemens": 0.7}
    found = gap_shares(EQUAL, local, {"GE": 0.5, "Siemens": 0.5}, 0.1)
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


# search


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
    """On a smooth hill; a move shrinks weights and never takes them to 0, hence the tolerance."""

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


# recipient


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
