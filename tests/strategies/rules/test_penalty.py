"""Eq. 1 of the paper, on cases made by hand and against a direct transcription, and λ."""

import itertools
import math
import random
from typing import Any

import pytest

from strategies.rules.penalty import (
    damping,
    disagree,
    lambda_of,
    penalties,
    spread,
    tolerances,
)
from tests.strategies.rules.samples import SHARE, SITES, rated, rule

BEFORE = {"GE": 0.5, "Philips": 0.5, "Siemens": 0.5}


def penalty_of(now: dict[str, float], before: dict[str, float] | None = None) -> dict[str, float]:
    return penalties(list(BEFORE), now, BEFORE if before is None else before, 0.2)


def test_a_gain_while_another_loses_is_damped() -> None:
    found = penalty_of({"GE": 0.6, "Philips": 0.4, "Siemens": 0.5})
    assert found == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}


def test_two_gains_at_the_cost_of_one_are_both_damped() -> None:
    found = penalty_of({"GE": 0.6, "Philips": 0.4, "Siemens": 0.51})
    assert found == {"GE": 0.8, "Philips": 1.0, "Siemens": 0.8}


@pytest.mark.parametrize(
    "now",
    [
        {"GE": 0.6, "Philips": 0.5, "Siemens": 0.6},  # nobody loses
        {"GE": 0.4, "Philips": 0.4, "Siemens": 0.5},  # nobody gains
        dict(BEFORE),
        {},
    ],
)
def test_without_both_a_gain_and_a_loss_nobody_is_damped(now: dict[str, float]) -> None:
    assert penalty_of(now) == dict.fromkeys(BEFORE, 1.0)


def test_a_site_without_a_report_neither_gains_nor_loses() -> None:
    assert penalty_of({"GE": 0.6, "Philips": 0.4}) == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    assert penalty_of({"GE": 0.6, "Siemens": 0.5}) == dict.fromkeys(BEFORE, 1.0)


def test_a_new_site_neither_gains_nor_loses() -> None:
    before = {"GE": 0.5, "Philips": 0.5}
    gained = penalty_of({"GE": 0.6, "Philips": 0.4, "Siemens": 0.9}, before)
    assert gained == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    lost = penalty_of({"GE": 0.6, "Philips": 0.5, "Siemens": 0.0}, before)
    assert lost == dict.fromkeys(BEFORE, 1.0)


def test_the_loss_of_a_site_that_did_not_train_counts() -> None:
    found = penalties(["GE"], {"GE": 0.6, "Siemens": 0.4}, BEFORE, 0.2)
    assert found == {"GE": 0.8}


def test_a_site_alone_is_never_damped() -> None:
    assert penalties(["GE"], {"GE": 0.6}, {"GE": 0.5}, 0.2) == {"GE": 1.0}


def test_lambda_falls_by_the_same_factor_every_round() -> None:
    assert damping(0.2, 0.95, 1) == 0.2
    found = [damping(0.2, 0.95, t) for t in range(1, 21)]
    for this, following in itertools.pairwise(found):
        assert following == pytest.approx(0.95 * this)
    assert found[19] == pytest.approx(0.2 * 0.95**19)


def test_lambda_of_zero_weighs_all_alike() -> None:
    lambda_t = damping(0.0, 0.95, 7)
    found = penalties(list(BEFORE), {"GE": 0.6, "Philips": 0.4}, BEFORE, lambda_t)
    assert found == dict.fromkeys(BEFORE, 1.0)


def transcribed(site: str, now: dict[str, float], before: dict[str, float], lam: float) -> float:
    """Eq. 1 read off the page, with missing numbers written as no change."""
    p_now = {i: now[i] if i in now and i in before else 0.0 for i in "abcdefg"}
    p_before = {i: before[i] if i in now and i in before else 0.0 for i in "abcdefg"}
    if p_now[site] > p_before[site]:
        for other in "abcdefg":
            if other != site and p_now[other] < p_before[other]:
                return 1.0 - lam
    return 1.0


def test_random_rounds_agree_with_the_equation() -> None:
    draw = random.Random(0)  # noqa: S311
    damped = 0
    for _ in range(500):
        sites = "abcdefg"[: draw.randint(1, 7)]
        now, before = (
            {s: draw.choice([0.3, 0.4, 0.5]) for s in sites if draw.random() < 0.8}
            for _ in range(2)
        )
        trained = [s for s in sites if draw.random() < 0.9]
        lam = draw.choice([0.05, 0.2, 1.0])
        found = penalties(trained, now, before, lam)
        assert found == {s: transcribed(s, now, before, lam) for s in trained}
        strict = tolerances(0.0, dict.fromkeys(sites, 5))
        assert found == penalties(trained, now, before, lam, strict)
        damped_here = sum(penalty != 1.0 for penalty in found.values())
        assert disagree(now, before) or not damped_here
        damped += damped_here
    assert damped > 100


def test_a_change_within_the_tolerance_is_none() -> None:
    now = {"GE": 0.625, "Philips": 0.375, "Siemens": 0.5}
    tight, exact = dict.fromkeys(BEFORE, 0.1), dict.fromkeys(BEFORE, 0.125)
    damped = {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    assert penalties(BEFORE, now, BEFORE, 0.2, tight) == damped
    assert penalties(BEFORE, now, BEFORE, 0.2, exact) == dict.fromkeys(BEFORE, 1.0)
    assert disagree(now, BEFORE, tight)
    assert not disagree(now, BEFORE, exact)


@pytest.mark.parametrize(("site", "penalty"), [("GE", 1.0), ("Philips", 1.0), ("Siemens", 0.8)])
def test_every_site_has_its_own_tolerance(site: str, penalty: float) -> None:
    now = {"GE": 0.625, "Philips": 0.375, "Siemens": 0.5}
    assert penalties(["GE"], now, BEFORE, 0.2, {site: 0.25}) == {"GE": penalty}


def test_a_larger_tolerance_damps_nobody_more() -> None:
    draw = random.Random(1)  # noqa: S311
    fewer = 0
    for _ in range(200):
        now, before = ({s: draw.random() for s in "abcd"} for _ in range(2))
        found = [
            penalties("abcd", now, before, 0.2, tolerances(t, dict.fromkeys("abcd", 4)))
            for t in (0.0, 0.2, 0.4)
        ]
        for tighter, wider in itertools.pairwise(found):
            assert all(wider[s] >= tighter[s] for s in "abcd")
            fewer += wider != tighter
    assert fewer > 20


def test_the_tolerance_falls_with_the_root_of_the_volumes() -> None:
    assert tolerances(0.06, {"a": 1, "b": 4, "c": 36}) == pytest.approx(
        {"a": 0.06, "b": 0.03, "c": 0.01}
    )
    assert tolerances(0.06, {"a": 0}) == {"a": 0.06}
    assert tolerances(0.0, {"a": 9, "b": 0}) == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize(("tolerance", "expected"), [(0.0, 0.75), (0.05, 0.13)])
def test_how_often_chance_alone_makes_sites_disagree(tolerance: float, expected: float) -> None:
    """The numbers in the docstring of ``tolerances``: three sites, nothing but noise."""
    draw = random.Random(2)  # noqa: S311
    volumes = {"a": 4, "b": 9, "c": 25}
    before = dict.fromkeys(volumes, 0.8)
    tau = tolerances(tolerance, volumes)
    found = sum(
        disagree({s: 0.8 + draw.gauss(0, 0.05 / math.sqrt(n)) for s, n in volumes.items()},
                 before, tau)
        for _ in range(4000)
    )  # fmt: skip
    assert found / 4000 == pytest.approx(expected, abs=0.03)


def test_gains_of_sites_that_did_not_train_are_disagreement_without_damping() -> None:
    now = {"GE": 0.6, "Philips": 0.4}
    assert penalties(["Philips"], now, BEFORE, 0.2) == {"Philips": 1.0}
    assert disagree(now, BEFORE)


@pytest.mark.parametrize(
    ("now", "before"),
    [
        ({"GE": 0.6, "Philips": 0.6}, BEFORE),
        ({"GE": 0.4, "Philips": 0.5}, BEFORE),
        ({"GE": 0.6, "Philips": 0.4}, {"GE": 0.5}),  # Philips is new
        ({"GE": 0.6}, BEFORE),  # Philips does not report
        ({}, {}),
    ],
)
def test_without_both_a_gain_and_a_loss_sites_agree(
    now: dict[str, float], before: dict[str, float]
) -> None:
    assert not disagree(now, before)


def lambdas(schedule: str, calm: list[int], spreads: list[float | None]) -> list[float]:
    rounds = zip(calm, spreads, strict=True)
    return [
        lambda_of(schedule, 0.2, 0.5, t, k, s_t, spreads[0])
        for t, (k, s_t) in enumerate(rounds, start=1)
    ]


def test_lambda_of_each_schedule_by_hand() -> None:
    calm = [0, 1, 1, 1, 2]  # sites disagreed in rounds 2 and 3
    spreads: list[float | None] = [0.08, 0.04, 0.16, 0.0, None]
    assert lambdas("decay", calm, spreads) == pytest.approx([0.2, 0.1, 0.05, 0.025, 0.0125])
    assert lambdas("held", calm, spreads) == pytest.approx([0.2, 0.1, 0.1, 0.1, 0.05])
    assert lambdas("spread", calm, spreads) == pytest.approx([0.2, 0.1, 0.2, 0.0, 0.2])


def test_schedules_that_see_only_calm_are_the_papers() -> None:
    for t in range(1, 21):
        paper = damping(0.2, 0.95, t)
        assert lambda_of("decay", 0.2, 0.95, t, 3, 0.1, 0.2) == paper
        assert lambda_of("held", 0.2, 0.95, t, t - 1, 0.1, 0.2) == paper


@pytest.mark.parametrize("first", [None, 0.0])
def test_without_a_first_spread_lambda_stays(first: float | None) -> None:
    assert lambda_of("spread", 0.2, 0.95, 7, 0, 0.1, first) == 0.2


def test_the_spread_is_the_standard_deviation_over_sites() -> None:
    assert spread({"a": 0.5, "b": 0.75, "c": 0.25, "d": 0.5}) == pytest.approx(0.125**0.5 / 2)
    assert spread({"a": 0.7, "b": 0.7}) == 0.0
    assert spread({"a": 0.7}) == spread({}) == 0.0
    forwards = {"a": 0.1, "b": 0.37, "c": 0.83}
    assert spread(forwards) == spread(dict(reversed(forwards.items())))


def test_held_lambda_decays_after_calm_rounds_only() -> None:
    found = rule("penalty", schedule="held")
    before = dict.fromkeys(SITES, 0.5)
    calm, split = rated((0.6,), (0.6,), (0.6,)), rated((0.6,), (0.4,), (0.5,))
    lambdas = [
        found.settle(number, SHARE, validation, before).lambda_t
        for number, validation in enumerate((split, split, calm, split), start=1)
    ]
    assert lambdas == pytest.approx([0.2, 0.2, 0.2, 0.19])


def test_the_spread_schedule_remembers_the_base() -> None:
    memory: dict[str, Any] = {}
    base = {"GE": 0.3, "Philips": 0.5, "Siemens": 0.7}
    wide = rule("penalty", memory, schedule="spread").settle(
        1, SHARE, rated((0.4,), (0.6,), (0.8,)), base
    )
    assert wide.lambda_t == pytest.approx(0.2)
    resumed = rule("penalty", memory, schedule="spread")
    near = resumed.settle(2, SHARE, rated((0.5,), (0.6,), (0.7,)), base)
    assert near.lambda_t == pytest.approx(0.1)


def test_a_tolerance_forgives_small_losses() -> None:
    before = dict.fromkeys(SITES, 0.5)
    wobble = rated((0.506,), (0.494,), (0.5,))
    strict = rule("penalty").settle(1, SHARE, wobble, before)
    lenient = rule("penalty", tolerance=0.02).settle(1, SHARE, wobble, before)  # 0.01 at 4 volumes
    assert strict.factors["GE"] == pytest.approx(0.8)
    assert set(lenient.factors.values()) == {1.0}
