"""Screening: the algebra is that of dense matrices, and a bad site is bounded or left out."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any

import pytest
import torch
from flwr.app import Message
from torch import Tensor

from common import messages, records
from common.adapter import Adapter, Factors
from common.config import RunConfig, ScreeningConfig
from common.errors import UserError
from strategies import screening
from tests.conftest import adapter_of
from tests.strategies.fakes import (
    SHAPES,
    FakeGrid,
    FakeSite,
    Fault,
    Outcome,
    go_on,
    initial_state,
    make_config,
    message_adapter,
    nodes,
    play,
    prepare,
    random_adapter,
    same_bits,
)

SCALE = 0.5
RANKS = (2, 4, 3)
START = random_adapter(0, 4, scale=SCALE)
GAINS = {0: 0.3, 1: 0.4, 2: 0.5, 3: 0.6}
FALLS = {0: 0.9, 1: 0.6, 2: 0.3, 3: 0.0}
ALL_ON = {"norm_bound": 1.5, "min_agreement": 0.0, "rating_check": 3.0}

Change = Callable[[Adapter, Adapter], Adapter]
"""Takes the adapter that a site was sent and the one that it trained; returns what it sends."""


def sites_adapters(ranks: Sequence[int] = RANKS) -> list[Adapter]:
    return [random_adapter(seed, rank, scale=SCALE) for seed, rank in enumerate(ranks, start=1)]


def dense_change(adapter: Adapter, start: Adapter = START, rank: int | None = None) -> Tensor:
    """Return Δ over all layers as one vector; ``rank`` is that of what was sent."""
    sent = start.truncated(rank or adapter.rank)
    layers = [(adapter.delta(name).double() - sent.delta(name).double()) for name in SHAPES]
    return torch.cat([layer.flatten() for layer in layers])


def times(adapter: Adapter, factor: float) -> Adapter:
    layers = {name: Factors(f.A, factor * f.B) for name, f in adapter.layers.items()}
    return Adapter(layers, adapter.scale)


def mirrored(start: Adapter, own: Adapter) -> Adapter:
    """Reverse the change of every factor."""
    layers = {
        name: Factors(2 * start.layers[name].A - f.A, 2 * start.layers[name].B - f.B)
        for name, f in own.layers.items()
    }
    return Adapter(layers, own.scale)


@pytest.mark.parametrize("block", [3, 256])
def test_inner_products_are_those_of_the_dense_changes(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "BLOCK", block)
    adapters = sites_adapters()
    dense = torch.stack([dense_change(adapter) for adapter in adapters])
    products = screening.inner_products(adapters, START)
    torch.testing.assert_close(products, dense @ dense.T, rtol=1e-5, atol=1e-4)
    for adapter, change in zip(adapters, dense, strict=True):
        assert screening.norm(adapter, START) == pytest.approx(change.norm().item(), rel=1e-6)


def test_a_small_change_of_a_large_adapter_is_not_lost_to_rounding() -> None:
    start = times(START, 100)
    nudge = random_adapter(7, 4, scale=SCALE)
    layers = {
        name: Factors(f.A, f.B + 1e-3 * nudge.layers[name].B) for name, f in start.layers.items()
    }
    adapter = Adapter(layers, SCALE)
    exact = torch.cat([
        SCALE * ((adapter.layers[n].B.double() - f.B.double()) @ f.A.double()).flatten()
        for n, f in start.layers.items()
    ])  # fmt: skip
    assert screening.norm(adapter, start) == pytest.approx(exact.norm().item(), rel=1e-6)


@pytest.mark.parametrize("rank", [2, 4])
@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_scaling_a_change_is_exact(rank: int, factor: float) -> None:
    (adapter,) = sites_adapters([rank])
    small = screening.scaled(adapter, START, factor)
    assert small.rank == 2 * rank
    expected = factor * dense_change(adapter)
    torch.testing.assert_close(dense_change(small, rank=rank), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e18, 3e38])
def test_the_largest_finite_adapter_is_scaled_to_the_bound(size: float) -> None:
    *good, one = sites_adapters()
    layers = {
        name: Factors(torch.full_like(f.A, size), torch.full_like(f.B, size))
        for name, f in one.layers.items()
    }
    sent = {"a": good[0], "b": good[1], "bad": Adapter(layers, SCALE)}
    found = screening.screen(sent, START, ScreeningConfig(norm_bound=2.0))
    middle = max(dense_change(adapter).norm().item() for adapter in good)
    bounded = dense_change(found.adapters["bad"], rank=one.rank).norm().item()
    assert bounded == pytest.approx(2.0 * middle, rel=1e-4)
    assert found.adapters["a"] is good[0]
    assert math.isfinite(found.notes["bad"]["norm_ratio"])


def test_cosines_are_those_of_the_dense_changes() -> None:
    adapters = sites_adapters()
    unit = torch.stack([torch.nn.functional.normalize(dense_change(a), dim=0) for a in adapters])
    cosine = screening.cosines(screening.inner_products(adapters, START))
    torch.testing.assert_close(cosine, unit @ unit.T, rtol=1e-5, atol=1e-6)


def test_a_site_that_sends_back_what_it_got_agrees_with_nobody() -> None:
    adapters = [*sites_adapters(), START.truncated(2)]
    cosine = screening.cosines(screening.inner_products(adapters, START))
    assert cosine[3].tolist() == [0.0, 0.0, 0.0, 0.0]
    everyone = screening.cosines(screening.inner_products([START] * 3, START))
    assert everyone.abs().max() <= 1  # and is a number


def test_nobody_moved_is_bounded_to_nothing() -> None:
    assert screening.over_median([0.0, 0.0, 0.0]) == [0.0, 0.0, 0.0]
    assert screening.over_median([0.0, 0.0, 2.0]) == [0.0, 0.0, math.inf]
    assert screening.over_median([1.0, 4.0, 2.0]) == [0.5, 2.0, 1.0]


def cosine_matrix(groups: str, within: float = 0.5, across: float = -0.5) -> Tensor:
    """Return the cosines of sites that are in one of two camps."""
    rows = [[within if a == b else across for b in groups] for a in groups]
    return torch.tensor(rows, dtype=torch.float64).fill_diagonal_(1.0)


@pytest.mark.parametrize("groups", ["++-", "-++", "+-+-+", "++-+-+-"])
def test_the_smaller_camp_is_left_out(groups: str) -> None:
    agreement, left_out = screening.judge(cosine_matrix(groups), 0.0)
    assert sorted(left_out) == [index for index, camp in enumerate(groups) if camp == "-"]
    for index, value in enumerate(agreement):
        assert (value < 0) == (index in left_out)


def test_a_good_site_is_not_judged_by_the_one_left_out() -> None:
    """Among all three, a good site's agreement is 0, like that of a merely different site."""
    agreement, left_out = screening.judge(cosine_matrix("++-"), 0.1)
    assert left_out == [2]
    assert agreement == [0.5, 0.5, -0.5]


def test_two_sites_always_stay() -> None:
    _, left_out = screening.judge(cosine_matrix("++++", within=-0.1), 0.9)
    assert len(left_out) == 2
    _, left_out = screening.judge(cosine_matrix("+-"), 0.9)
    assert left_out == []


def test_the_order_of_the_sites_does_not_matter() -> None:
    adapters = sites_adapters()
    sent = {"a": adapters[0], "b": times(adapters[1], 50), "c": mirrored(START, adapters[1])}
    method = ScreeningConfig(norm_bound=1.5, min_agreement=0.3)
    first = screening.screen(sent, START, method)
    assert first.refused
    for order in permutations(sent):
        other = screening.screen({site: sent[site] for site in order}, START, method)
        assert (other.notes, other.refused) == (first.notes, first.refused)
        assert set(other.adapters) == set(first.adapters)
        assert all(same_bits(other.adapters[s], first.adapters[s]) for s in first.adapters)


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_sites_are_not_screened(count: int) -> None:
    adapters = sites_adapters()
    sent = {"a": adapters[0], "b": times(adapters[1], -1e6)}
    sent = dict(list(sent.items())[-count:])
    found = screening.screen(sent, START, ScreeningConfig(norm_bound=1.0, min_agreement=0.9))
    assert found == screening.Screened(sent)


def rated(changes: Mapping[str, float], check: float) -> set[str]:
    """Return the sites that stay rated after these changes from a Dice of 0.5."""
    validation = {site: 0.5 + change for site, change in changes.items()}
    return set(screening.rated(validation, dict.fromkeys(changes, 0.5), check))


@pytest.mark.parametrize("sites", [3, 4, 7])
@pytest.mark.parametrize("lie", [-0.4, 0.4])
def test_a_rating_far_from_the_others_is_left_out(sites: int, lie: float) -> None:
    changes = {f"site {n}": 0.005 * n for n in range(sites)}
    honest = set(changes)
    assert rated(changes, 3.0) == honest
    assert rated({**changes, "liar": lie}, 3.0) == honest
    assert rated({**changes, "liar": lie}, 0.0) == {*honest, "liar"}


def test_most_ratings_are_always_used() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (3, 4, 5, 8):
        for _ in range(50):
            values = (torch.rand(count, generator=generator) - 0.5).tolist()
            assert len(rated(dict(zip("abcdefgh", values, strict=False)), 1.0)) * 2 >= count


def test_changes_within_the_noise_of_few_patients_are_rated() -> None:
    assert rated({"a": 0.0, "b": 0.0, "c": -0.029}, 3.0) == {"a", "b", "c"}
    assert rated({"a": 0.0, "b": 0.0, "c": -0.031}, 3.0) == {"a", "b"}


def test_a_lie_as_small_as_the_noise_is_not_seen() -> None:
    """The limit of the rule that its docstring states: Eq. 1 uses only signs."""
    assert rated({"a": 0.02, "b": 0.01, "liar": -0.001}, 3.0) == {"a", "b", "liar"}


def test_two_changes_are_not_compared() -> None:
    validation, previous = {"a": 0.9, "b": 0.1, "new": 0.5}, {"a": 0.1, "b": 0.9}
    assert screening.rated(validation, previous, 1.0) == validation


def common_step(server_round: int, start: Adapter) -> dict[str, Factors]:
    """Return the change that honest sites have in common."""
    return dict(random_adapter(1000 + server_round, 8).truncated(start.rank).layers)


def sends(change: Change | None = None) -> dict[tuple[int, str], Fault]:
    """Return faults of three rounds: the sites learn much in common, and then ``change`` it."""

    def fault(message: Message, reply: Message) -> Message:
        order: Any = message.content[messages.CONFIG]
        start, own = message_adapter(message), message_adapter(reply)
        step = common_step(int(order["server-round"]), start)
        layers = {
            name: Factors(f.A + 0.05 * step[name].A, f.B + 0.3 * step[name].B)
            for name, f in own.layers.items()
        }
        sent = Adapter(layers, own.scale)
        sent = change(start, sent) if change else sent
        reply.content[messages.ADAPTER] = records.adapter_to_record(sent)
        return reply

    return {(t, messages.TRAIN): fault for t in (1, 2, 3)}


def federation(change: Change | None = None, dice: Mapping[int, float] = GAINS) -> list[FakeSite]:
    """Return three sites of which Philips changes what it sends, and reports ``dice``."""
    return [
        FakeSite("GE", 10, GAINS, faults=sends()),
        FakeSite("Philips", 20, dice, faults=sends(change)),
        FakeSite("Siemens", 20, GAINS, faults=sends()),
    ]


def run(sites: list[FakeSite], **keys: Any) -> Outcome:
    return play(make_config(**keys), FakeGrid(nodes(*sites), shuffle=3))


def test_a_clean_run_is_the_same_with_everything_on() -> None:
    off, on = run(federation(), ranks="2,4,4"), run(federation(), ranks="2,4,4", **ALL_ON)
    for server_round in (1, 2, 3):
        assert same_bits(off.states[server_round].parameters, on.states[server_round].parameters)
        assert on.refused(server_round) == {}
        for site, entry in on.history[server_round].sites.items():
            assert 0 < entry.pop("norm_ratio") < 1.5
            assert entry.pop("agreement") > 0.2
            assert set(entry) == set(off.history[server_round].sites[site])


def test_a_turned_change_is_left_out_and_the_rest_goes_on_as_without_it() -> None:
    bad = run(federation(mirrored), **ALL_ON)
    silent = federation()
    silent[1].faults = {(t, messages.TRAIN): lambda *_: None for t in (1, 2, 3)}
    without = run(silent, **ALL_ON)
    for server_round in (1, 2, 3):
        assert same_bits(
            bad.states[server_round].parameters, without.states[server_round].parameters
        )
        assert list(bad.refused(server_round)) == [("Philips", "merge")]
        agreement = bad.history[server_round].sites["Philips"]["agreement"]
        assert agreement < 0
        reason = bad.refused(server_round)["Philips", "merge"]
        assert reason == (
            f"its change agrees {agreement:.3f} with the others', expected at least "
            "min-agreement = 0"
        )
        assert sorted(bad.penalties(server_round)) == ["GE", "Siemens"]
    # what it sent is there to be looked at
    assert sorted(bad.strategy.round.updates) == ["GE", "Philips", "Siemens"]


def test_leaving_a_site_out_does_not_go_below_min_sites() -> None:
    outcome = prepare(make_config(min_sites=3, **ALL_ON))
    with pytest.raises(UserError, match=r"min-sites = 3 \(Philips: its change agrees -"):
        go_on(outcome, FakeGrid(nodes(*federation(mirrored))))


def test_a_hundredfold_adapter_moves_the_merge_no_more_than_the_bound_allows() -> None:
    def enlarge(_start: Adapter, own: Adapter) -> Adapter:
        return times(own, 100)

    clean = run(federation(), rounds=1)
    bad = run(federation(enlarge), rounds=1)
    bounded = run(federation(enlarge), rounds=1, norm_bound=1.5)
    start = adapter_of(initial_state(clean.strategy.config).parameters)

    def step(outcome: Outcome) -> float:
        return float(dense_change(adapter_of(outcome.states[1].parameters), start).norm())

    honest = [
        adapter_of(u.parameters)
        for site, u in bounded.strategy.round.updates.items()
        if site != "Philips"
    ]
    middle = max(dense_change(adapter, start).norm().item() for adapter in honest)
    assert step(bad) > 20 * step(clean)
    assert step(bounded) <= (1 + 1 + 1.5) / 3 * middle
    notes = bounded.history[1].sites
    assert notes["Philips"]["norm_ratio"] > 50
    assert max(notes[site]["norm_ratio"] for site in ("GE", "Siemens")) == 1.0
    assert bounded.strategy.round.updates["Philips"].parameters.rank == 4  # as it was sent
    assert bounded.states[1].parameters.rank == 4


def test_a_bounded_run_is_the_merge_of_the_scaled_changes() -> None:
    def enlarge(_start: Adapter, own: Adapter) -> Adapter:
        return times(own, 100)

    sites = federation(enlarge)
    outcome = run(sites, rounds=1, norm_bound=2.0, rank=7)  # of full rank, so nothing is cut
    start = adapter_of(initial_state(outcome.strategy.config).parameters)
    changes = {
        site: dense_change(adapter_of(update.parameters), start)
        for site, update in outcome.strategy.round.updates.items()
    }
    norms = {site: change.norm() for site, change in changes.items()}
    changes["Philips"] *= 2.0 * max(norms["GE"], norms["Siemens"]) / norms["Philips"]
    expected = torch.stack(list(changes.values())).mean(dim=0)
    merged = dense_change(adapter_of(outcome.states[1].parameters), start)
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-4)


def test_a_false_rating_neither_loses_nor_damps() -> None:
    believed = run(federation(dice=FALLS))
    checked = run(federation(dice=FALLS), rating_check=3.0)
    assert believed.penalties(1) == {"GE": 0.8, "Philips": 1.0, "Siemens": 0.8}
    for server_round in (1, 2, 3):
        assert set(checked.penalties(server_round).values()) == {1.0}
        entries = checked.history[server_round].sites
        assert {site for site, entry in entries.items() if "unrated" in entry} == {"Philips"}
        assert entries["Philips"]["unrated"] is True
        assert entries["Philips"]["validation"] == FALLS[server_round]
        assert checked.states[server_round].previous["Philips"] == FALLS[server_round]


def test_off_leaves_no_trace_in_the_history() -> None:
    outcome = run(federation(mirrored, FALLS))
    for server_round in (1, 2, 3):
        assert outcome.refused(server_round) == {}
        for entry in outcome.history[server_round].sites.values():
            assert not {"norm_ratio", "agreement", "unrated"} & set(entry)


@pytest.mark.parametrize(("key", "value"), [("norm-bound", 2.0), ("min-agreement", 0.5)])
def test_products_are_not_screened_where_they_are_not_merged(key: str, value: float) -> None:
    with pytest.raises(UserError, match="merge: found 'pad', expected 'svd' with norm-bound or"):
        RunConfig.from_flat({key: value, "merge": "pad"})


@pytest.mark.parametrize(
    ("key", "value"), [("norm-bound", 2.0), ("min-agreement", 0.0), ("rating-check", 2.0)]
)
def test_screening_needs_three_sites(key: str, value: float) -> None:
    with pytest.raises(UserError, match="sites: found 2, expected at least 3 with norm-bound"):
        RunConfig.from_flat({key: value, "sites": 2})


@pytest.mark.parametrize("key", ["norm-bound", "rating-check"])
def test_a_bound_below_one_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=f"{key}: found 0.5, expected 0 or at least 1"):
        RunConfig.from_flat({key: 0.5})
