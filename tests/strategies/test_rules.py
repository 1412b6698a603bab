"""Rules carry on what they need and give masses that a merge can use."""

import json
from typing import Any

import pytest

from common.adapter import Adapter
from common.config import RunConfig
from strategies.replies import Update, Validation
from strategies.rules import RULES, Plain, rule_of
from tests.strategies.fakes import random_adapter

SITES = ("GE", "Philips", "Siemens")
SHARE = dict.fromkeys(SITES, 1 / 3)
OWN: Adapter = random_adapter(0, 2)


def updates(start: float = 0.5, **own: float) -> dict[str, Update]:
    dice = {**dict.fromkeys(SITES, 0.5), **own}
    return {site: Update(OWN, 10, 0.5, 1.0, start, dice[site]) for site in SITES}


def rated(*dice: tuple[float, ...]) -> dict[str, Validation]:
    return {s: Validation(d[0], 4, d[1:]) for s, d in zip(SITES, dice, strict=True)}


def rule(rating: str, memory: dict[str, Any] | None = None, **keys: Any) -> Plain:
    config = RunConfig.from_flat({"rating": rating, **keys})
    return rule_of(config, {} if memory is None else memory)


@pytest.mark.parametrize("rating", RULES)
def test_memory_is_what_json_holds_and_masses_sum_to_one(rating: str) -> None:
    memory: dict[str, Any] = {}
    found = rule(rating, memory)
    share = found.shares(1, SHARE, updates())
    count = 1 + len(found.others(share))
    settled = found.settle(1, share, rated(*[(0.5,) * count] * 3), dict.fromkeys(SITES, 0.4))
    assert sum(share.values()) == pytest.approx(1)
    assert sum(settled.masses.values()) == pytest.approx(1)
    assert set(settled.masses) == set(settled.weights) == set(SITES)
    assert json.loads(json.dumps(memory)) == memory


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
    assert strict.weights["GE"] == pytest.approx(0.8)
    assert set(lenient.weights.values()) == {1.0}


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


def test_every_recipient_prefers_what_is_good_for_it() -> None:
    found = rule("recipient")
    share = found.shares(1, SHARE, updates(start=0.5))
    assert found.others(share)[1] == {"GE": 0.0, "Philips": 1.0, "Siemens": 0.0}
    dice = [(0.6, 0.7, 0.4, 0.6), (0.6, 0.6, 0.8, 0.6), (0.6, 0.6, 0.6, 0.6)]
    settled = found.settle(1, share, rated(*dice), {})
    assert settled.personal["GE"]["GE"] > settled.personal["GE"]["Siemens"] > 0
    assert settled.personal["GE"]["Philips"] == 0  # worse than what it started from
    assert settled.personal["Siemens"] == pytest.approx(SHARE)
    assert settled.masses == SHARE
