"""Eq. 1 of the paper, on cases made by hand and against a direct transcription, and λ."""

import itertools
import math
import random

import pytest

from strategies.penalty import (
    damping,
    disagree,
    lambda_of,
    removed,
    site_weights,
    spread,
    tolerances,
)
from strategies.weighting import masses

BEFORE = {"GE": 0.5, "Philips": 0.5, "Siemens": 0.5}


def weights(now: dict[str, float], before: dict[str, float] | None = None) -> dict[str, float]:
    return site_weights(list(BEFORE), now, BEFORE if before is None else before, 0.2)


def test_a_gain_while_another_loses_is_damped() -> None:
    found = weights({"GE": 0.6, "Philips": 0.4, "Siemens": 0.5})
    assert found == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}


def test_two_gains_at_the_cost_of_one_are_both_damped() -> None:
    found = weights({"GE": 0.6, "Philips": 0.4, "Siemens": 0.51})
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
    assert weights(now) == dict.fromkeys(BEFORE, 1.0)


def test_a_site_without_a_report_neither_gains_nor_loses() -> None:
    assert weights({"GE": 0.6, "Philips": 0.4}) == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    assert weights({"GE": 0.6, "Siemens": 0.5}) == dict.fromkeys(BEFORE, 1.0)


def test_a_new_site_neither_gains_nor_loses() -> None:
    before = {"GE": 0.5, "Philips": 0.5}
    gained = weights({"GE": 0.6, "Philips": 0.4, "Siemens": 0.9}, before)
    assert gained == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    lost = weights({"GE": 0.6, "Philips": 0.5, "Siemens": 0.0}, before)
    assert lost == dict.fromkeys(BEFORE, 1.0)


def test_the_loss_of_a_site_that_did_not_train_counts() -> None:
    found = site_weights(["GE"], {"GE": 0.6, "Siemens": 0.4}, BEFORE, 0.2)
    assert found == {"GE": 0.8}


def test_a_site_alone_is_never_damped() -> None:
    assert site_weights(["GE"], {"GE": 0.6}, {"GE": 0.5}, 0.2) == {"GE": 1.0}


def test_lambda_falls_by_the_same_factor_every_round() -> None:
    assert damping(0.2, 0.95, 1) == 0.2
    found = [damping(0.2, 0.95, t) for t in range(1, 21)]
    for this, following in itertools.pairwise(found):
        assert following == pytest.approx(0.95 * this)
    assert found[19] == pytest.approx(0.2 * 0.95**19)


def test_lambda_of_zero_weighs_all_alike() -> None:
    lambda_t = damping(0.0, 0.95, 7)
    found = site_weights(list(BEFORE), {"GE": 0.6, "Philips": 0.4}, BEFORE, lambda_t)
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
        found = site_weights(trained, now, before, lam)
        assert found == {s: transcribed(s, now, before, lam) for s in trained}
        strict = tolerances(0.0, dict.fromkeys(sites, 5))
        assert found == site_weights(trained, now, before, lam, strict)
        damped_here = sum(weight != 1.0 for weight in found.values())
        assert disagree(now, before) or not damped_here
        damped += damped_here
    assert damped > 100


def test_a_change_within_the_tolerance_is_none() -> None:
    now = {"GE": 0.625, "Philips": 0.375, "Siemens": 0.5}
    tight, exact = dict.fromkeys(BEFORE, 0.1), dict.fromkeys(BEFORE, 0.125)
    damped = {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    assert site_weights(BEFORE, now, BEFORE, 0.2, tight) == damped
    assert site_weights(BEFORE, now, BEFORE, 0.2, exact) == dict.fromkeys(BEFORE, 1.0)
    assert disagree(now, BEFORE, tight)
    assert not disagree(now, BEFORE, exact)


@pytest.mark.parametrize(("site", "weight"), [("GE", 1.0), ("Philips", 1.0), ("Siemens", 0.8)])
def test_every_site_has_its_own_tolerance(site: str, weight: float) -> None:
    now = {"GE": 0.625, "Philips": 0.375, "Siemens": 0.5}
    assert site_weights(["GE"], now, BEFORE, 0.2, {site: 0.25}) == {"GE": weight}


def test_a_larger_tolerance_damps_nobody_more() -> None:
    draw = random.Random(1)  # noqa: S311
    fewer = 0
    for _ in range(200):
        now, before = ({s: draw.random() for s in "abcd"} for _ in range(2))
        found = [
            site_weights("abcd", now, before, 0.2, tolerances(t, dict.fromkeys("abcd", 4)))
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
    assert site_weights(["Philips"], now, BEFORE, 0.2) == {"Philips": 1.0}
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


def test_what_normalising_gives_the_others_it_takes_from_the_damped() -> None:
    share = {"a": 0.5, "b": 0.25, "c": 0.25}
    mass = masses(share, {"a": 0.8, "b": 1.0, "c": 1.0}, normalise=True)  # .4 : .25 : .25 of .9
    found = removed(share, mass)
    assert found == pytest.approx({"a": 1 / 9, "b": -1 / 9, "c": -1 / 9})
    assert sum(share[s] * found[s] for s in share) == pytest.approx(0.0)


def test_without_normalising_a_damped_site_loses_lambda() -> None:
    share = {"a": 0.5, "b": 0.5}
    mass = masses(share, {"a": 0.75, "b": 1.0}, normalise=False)
    assert removed(share, mass) == {"a": 0.25, "b": 0.0}


def test_nothing_is_removed_where_nobody_is_damped() -> None:
    share = {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    mass = masses(share, dict.fromkeys(share, 1.0), normalise=True)
    assert removed(share, mass) == dict.fromkeys(share, 0.0)


def test_without_mass_all_is_removed_and_without_a_share_nothing() -> None:
    assert removed({"a": 0.5, "b": 0.5, "c": 0.0}, {"b": 0.5, "c": 0.1}) == {
        "a": 1.0, "b": 0.0, "c": 0.0,
    }  # fmt: skip
