"""Eq. 1 of the paper, on cases made by hand and against a direct transcription."""

import itertools
import random

import pytest

from strategies.penalty import damping, site_weights

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
        damped += sum(weight != 1.0 for weight in found.values())
    assert damped > 100
