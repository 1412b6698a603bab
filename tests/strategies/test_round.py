"""A round without messages: what it records, merges and leaves in the state."""

from typing import Any

import pytest

from common.adapter import Adapter
from common.config import RunConfig
from common.messages import Update, Validation
from strategies import merging
from strategies.round import Round
from strategies.rules import rule_of
from strategies.state import RoundRecord, RunState
from tests.strategies.fakes import initial_state, make_config, same_bits, trained

SITES = ("GE", "Philips", "Siemens")
BEFORE = dict.fromkeys(SITES, 0.5)
DAMPED = {"GE": Validation(0.6, 2), "Philips": Validation(0.4, 2), "Siemens": Validation(0.5, 2)}
"""GE gains while Philips loses."""


def sent(state: RunState, **facts: float) -> dict[str, Update]:
    start = state.parameters
    assert isinstance(start, Adapter)
    dice: dict[str, Any] = {"start_dice": None, "local_dice": None, **facts}
    return {site: Update(trained(site, 1, start), 10, 1.0, 0.5, **dice) for site in SITES}


def begin(config: RunConfig) -> tuple[Round, RunState]:
    state = initial_state(config)
    state.previous.update(BEFORE)
    return Round(1, config, state, rule_of(config, state.rating)), state


def adapters(updates: dict[str, Update]) -> dict[str, Adapter]:
    return {s: u.parameters for s, u in updates.items() if isinstance(u.parameters, Adapter)}


def test_a_round_settles_on_the_penalised_merge_and_says_so() -> None:
    this, state = begin(make_config())
    updates = sent(state)
    found = this.screen(updates)
    assert found == RoundRecord(
        1, sites={s: {"examples": 10, "loss": 0.5, "train_s": 1.0} for s in SITES}
    )
    third = dict.fromkeys(SITES, 1 / 3)
    first = merging.merge(adapters(updates), third, "svd", 4)
    assert same_bits(this.merge().parameters, first)

    settled = this.settle(DAMPED)
    assert settled.lambda_t == 0.2
    assert {site: entry["penalty"] for site, entry in settled.sites.items()} == {
        "GE": 0.8, "Philips": 1.0, "Siemens": 1.0,
    }  # fmt: skip
    assert settled.sites["GE"]["removed"] == pytest.approx(1 - 0.8 / (2.8 / 3))
    assert settled.sites["Philips"] | {"removed": 0} == {
        "penalty": 1.0, "share": 1 / 3, "removed": 0, "validation": 0.4, "previous": 0.5,
    }  # fmt: skip
    masses = {"GE": 0.8 / 2.8, "Philips": 1 / 2.8, "Siemens": 1 / 2.8}
    again = merging.merge(adapters(updates), masses, "svd", 4)
    layer = "head"
    assert isinstance(state.parameters, Adapter)
    assert state.parameters.delta(layer).numpy() == pytest.approx(
        again.delta(layer).numpy(), abs=1e-6
    )
    assert not same_bits(state.parameters, first)
    assert state.server_round == 1
    assert state.previous == {"GE": 0.6, "Philips": 0.4, "Siemens": 0.5}


def test_where_nobody_is_damped_the_first_merge_is_kept() -> None:
    this, state = begin(make_config())
    this.screen(sent(state))
    first = this.merge()
    this.settle({site: Validation(0.6, 2) for site in SITES})
    assert state.parameters is first.parameters


def test_what_screening_leaves_out_is_refused_and_not_merged() -> None:
    this, state = begin(make_config(min_agreement=0.0))
    updates = sent(state)
    start = state.parameters
    assert isinstance(start, Adapter)
    honest = trained("GE", 1, start)
    agreeing = {"GE": honest, "Philips": honest, "Siemens": turned(honest)}
    for site, adapter in agreeing.items():
        updates[site] = Update(adapter, 10, 1.0, 0.5, None, None)
    found = this.screen(updates)
    assert [(r["site"], r["phase"]) for r in found.refused] == [("Siemens", "merge")]
    assert found.sites["Siemens"]["agreement"] == pytest.approx(-1)
    this.merge()
    assert this.share == {"GE": 0.5, "Philips": 0.5}


def turned(adapter: Adapter) -> Adapter:
    """Return the adapter with the opposite change of every layer; the start's is zero."""
    layers = {name: f._replace(B=-f.B) for name, f in adapter.layers.items()}
    return Adapter(layers, adapter.scale)


def test_sites_facts_about_their_training_are_recorded_and_may_be_compared_with() -> None:
    this, state = begin(make_config(previous="penalised"))
    found = this.screen(sent(state, start_dice=0.7, local_dice=0.8))
    assert {(e["start"], e["local"]) for e in found.sites.values()} == {(0.7, 0.8)}
    assert state.previous == dict.fromkeys(SITES, 0.7)
