"""A merge that the sites could not use is not made: who spoils it is left out, or the round."""

from collections.abc import Collection

import pytest
import torch
from flwr.app import Message

from common import messages
from common.adapter import Adapter, Factors
from common.messages import Train, Update, Validate
from common.records import LARGEST
from common.weights import Weights
from strategies.delivery import Delivery
from strategies.round import Round
from strategies.rules.base import Rule
from strategies.state import Merged, RunState
from strategies.usable import SPOILS, is_usable, spoilers
from tests.strategies.fakes import (
    SHAPES,
    FakeGrid,
    FakeSite,
    Fault,
    go_on,
    make_config,
    nodes,
    play,
    prepare,
    random_adapter,
    same_bits,
)
from tests.strategies.test_unruly_sites import with_tensors

HUGE = with_tensors(lambda tensors: [value.fill_(LARGEST) for value in tensors.values()])


def sites(*poisoners: str, server_round: int = 2) -> list[FakeSite]:
    """Return three sites, of which these send values just within the limit in one round."""
    fault = {(server_round, messages.TRAIN): HUGE}
    return [FakeSite(name, faults=fault if name in poisoners else {}) for name in "ABZ"]


@pytest.mark.parametrize("merge", ["svd", "pad"])
def test_the_spoiler_of_a_merge_is_left_out(merge: str) -> None:
    config = make_config(merge=merge, min_sites=1)
    outcome = play(config, FakeGrid(nodes(*sites("Z"))))
    reasons = {key: reason for key, reason in outcome.refused(2).items() if key[1] == "merge"}
    if merge == "pad":  # the mean of values within the limit is within the limit
        assert reasons == {}
        return
    assert reasons == {("Z", "merge"): SPOILS}
    assert outcome.refused(3) == {}
    assert sorted(outcome.penalties(3)) == ["A", "B", "Z"]


def test_without_the_spoiler_the_merge_is_that_of_the_others() -> None:
    outcome = play(make_config(rounds=2), FakeGrid(nodes(*sites("Z"))))
    silent = sites()
    silent[2].faults = {(2, messages.TRAIN): lambda *_: None}
    alone = play(make_config(rounds=2), FakeGrid(nodes(*silent)))
    assert same_bits(outcome.states[2].parameters, alone.states[2].parameters)


@pytest.mark.parametrize("server_round", [1, 2])
def test_a_round_that_nobody_can_use_is_dropped(server_round: int) -> None:
    found = sites("A", "B", "Z", server_round=server_round)
    outcome = play(make_config(), FakeGrid(nodes(*found)))
    record = outcome.history[server_round]
    assert record.dropped == "no merge of 3 updates has values that sites take"
    assert record.to_json()["dropped"] == record.dropped
    before, after = outcome.states[server_round - 1], outcome.states[server_round]
    assert same_bits(before.parameters, after.parameters)
    assert before.previous == after.previous
    assert not any(kind == "validate" and t == server_round for t, kind in outcome.phases)
    assert sorted(outcome.history) == [0, 1, 2, 3]
    assert outcome.history[3].dropped == ""
    assert outcome.refused(3) == {}
    assert sorted(outcome.penalties(3)) == ["A", "B", "Z"]


def test_one_whom_min_sites_does_not_spare_drops_the_round() -> None:
    outcome = play(make_config(min_sites=3), FakeGrid(nodes(*sites("Z"))))
    assert outcome.history[2].dropped
    assert outcome.refused(2) == {("Z", "merge"): SPOILS}
    assert outcome.history[3].dropped == ""


def test_a_run_goes_on_from_a_dropped_round() -> None:
    whole = play(make_config(), FakeGrid(nodes(*sites("A", "B", "Z"))))
    first = prepare(make_config(rounds=2))
    go_on(first, FakeGrid(nodes(*sites("A", "B", "Z"))))
    rest = play(make_config(), FakeGrid(nodes(*sites())), state=first.states[2])
    assert same_bits(whole.states[3].parameters, rest.states[3].parameters)


def test_values_that_sites_refuse_are_not_usable() -> None:
    good = random_adapter(1, 4)
    assert is_usable(Merged(good), None)
    for value in (2 * LARGEST, torch.nan, torch.inf, -2 * LARGEST):
        spoilt = {**good.layers, "head": Factors(good.layers["head"].A * value, torch.ones(3, 4))}
        assert not is_usable(Merged(Adapter(spoilt, 1.0)), None)
        assert not is_usable(Merged(good, Adapter(spoilt, 1.0)), None)
        assert not is_usable(Merged(Weights({"a": torch.tensor([0.0, value])})), None)


def test_what_was_folded_before_counts() -> None:
    fold = random_adapter(1, 4)
    dense = {name: torch.full((o, i), LARGEST) for name, (o, i) in SHAPES.items()}
    assert is_usable(Merged(random_adapter(2, 4), fold), None)
    assert not is_usable(Merged(random_adapter(2, 4), fold), dense)


@pytest.mark.parametrize("dropped", [1, 2, 3])
def test_nothing_is_folded_twice_after_a_dropped_round(dropped: int) -> None:
    """Who trained in it holds what was folded before, and is sent all of it again."""
    config = make_config(merge="fold")
    state = RunState.initial(config, SHAPES)
    assert isinstance(state.parameters, Adapter)
    update = Update(random_adapter(1, 4, scale=state.parameters.scale), 10, 0.5, 0.0)
    delivery, merges = Delivery(config, state, 4), 0
    for number in range(1, 4):
        request = delivery.pack(Train, number, "GE", 4, state.merged("GE"))
        assert request.folds + (request.fold is not None) == merges
        assert (request.folded is not None) == (merges > 0 and dropped == number - 1)
        state.held["GE"] = number
        this = Round(number, config, state, Rule(config, {}))
        this.screen({"GE": update})
        if number == dropped:
            this.drop()
        else:
            this.merge()
            asked = delivery.pack(Validate, number, "GE", 4, this.first_merge)
            assert (asked.folds, asked.folded is None) == (merges, True)
            this.settle({})
            merges += 1
    assert (state.folds, state.server_round) == (2, 3)


def weights(size: float) -> Weights:
    return Weights({"a": torch.tensor([size])})


@pytest.mark.parametrize("bad", ["", "c", "a", "ab", "abcd"])
def test_as_few_as_possible_are_left_out(bad: str) -> None:
    updates = {site: weights(100.0 + ord(site) if site in bad else 1.0) for site in "abcd"}
    tried: list[list[str]] = []

    def passes(left: Collection[str]) -> bool:
        tried.append(sorted(left))
        return not set(bad) & set(left) and bad != ""

    found = spoilers(updates, passes)
    assert sorted(found) == sorted(bad or "abcd")
    assert len(tried) <= 10
    if len(bad) == 1:
        assert len(tried) == 1  # the largest is tried first


def test_whoever_spoils_is_found_even_if_small() -> None:
    updates = {"a": weights(3.0), "b": weights(2.0), "c": weights(1.0)}
    assert spoilers(updates, lambda left: "c" not in left) == ["c"]


def test_the_message_of_a_site_that_is_mute_costs_ever_fewer_time_outs() -> None:
    def mute(_message: Message, _reply: Message) -> None:
        return None

    faults: dict[tuple[int, str], Fault] = {
        (t, kind): mute for t in range(21) for kind in (messages.TRAIN, messages.VALIDATE)
    }
    found = [FakeSite("A"), FakeSite("B"), FakeSite("Z", faults=faults)]
    grid = FakeGrid(nodes(*found))
    outcome = play(make_config(rounds=20), grid)
    asked = [t for t, kind, site, _ in grid.log if site == "Z" and kind != messages.DESCRIBE]
    assert asked == [0, 1, 2, 4, 8, 16]
    assert outcome.refused(5)["Z", "train"] == "not asked before round 8, as it was silent 4 times"
    assert all(sorted(outcome.penalties(t)) == ["A", "B"] for t in range(1, 21))
