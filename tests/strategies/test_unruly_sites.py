"""Sites that fail, lie, leave, come back or do not belong: the rest goes on as if without them."""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common import Array
from torch import Tensor

from common import messages, records
from common.errors import UserError
from common.flower_environment import UNREGISTERED
from strategies import roster
from tests.conftest import adapter_of
from tests.strategies.fakes import (
    SHAPES,
    FakeGrid,
    FakeSite,
    Fault,
    go_on,
    make_config,
    message_adapter,
    nodes,
    play,
    prepare,
    random_adapter,
    same_bits,
)

GAINS = {0: 0.3, 1: 0.4, 2: 0.5, 3: 0.6}
LOSES = {0: 0.7, 1: 0.6, 2: 0.5, 3: 0.4}
STEADY = 0.5


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Make waiting for sites take no time."""
    fake = SimpleNamespace(now=0.0)

    def sleep(seconds: float) -> None:
        fake.now += seconds

    monkeypatch.setattr(roster, "time", SimpleNamespace(monotonic=lambda: fake.now, sleep=sleep))
    return fake


def two_sites() -> list[FakeSite]:
    return [FakeSite("GE", 10, GAINS), FakeSite("Siemens", 30, LOSES)]


def silent(_message: Message, _reply: Message) -> None:
    return None


def crashed(message: Message, _reply: Message) -> Message:
    return Message(Error(1, "Traceback …\nRuntimeError: out of memory"), reply_to=message)


def unreachable(message: Message, _reply: Message) -> Message:
    return Message(Error(3), reply_to=message)


def mistaken(message: Message, _reply: Message) -> Message:
    config = ConfigRecord({messages.ERROR: "/data: no such folder"})
    return Message(RecordDict({messages.CONFIG: config}), reply_to=message)


def empty(message: Message, _reply: Message) -> Message:
    return Message(RecordDict(), reply_to=message)


def without(key: str) -> Fault:
    def fault(_message: Message, reply: Message) -> Message:
        del reply.content[key]
        return reply

    return fault


def with_numbers(**numbers: int | float | list[int]) -> Fault:
    def fault(_message: Message, reply: Message) -> Message:
        metrics = reply.content[messages.METRICS]
        assert isinstance(metrics, MetricRecord)
        metrics.update({key.replace("_", "-"): value for key, value in numbers.items()})
        return reply

    return fault


def with_tensors(change: Callable[[dict[str, Tensor]], object]) -> Fault:
    def fault(_message: Message, reply: Message) -> Message:
        arrays = reply.content[messages.ADAPTER]
        assert isinstance(arrays, ArrayRecord)
        found = records.record_to_tensors(arrays)
        change(found)
        reply.content[messages.ADAPTER] = records.tensors_to_record(found)
        return reply

    return fault


def poisoned(number: float) -> Fault:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors["head.lora_B"][0, 0] = number

    return with_tensors(change)


def of_rank(rank: int) -> Fault:
    other = random_adapter(0, rank).tensors()
    return with_tensors(lambda tensors: tensors.update(other))


def as_double(tensors: dict[str, Tensor]) -> None:
    tensors["head.lora_A"] = tensors["head.lora_A"].double()


def transposed(tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        tensors[name] = value.T.contiguous()


def garbled(_message: Message, reply: Message) -> Message:
    array = Array(np.frombuffer(b"not an adapter", np.uint8))
    reply.content[messages.ADAPTER] = ArrayRecord({records.PACKED: array})
    return reply


TRAIN_FAULTS: dict[str, tuple[Fault, str]] = {
    "silent": (silent, "no answer"),
    "crashed": (crashed, "RuntimeError: out of memory"),
    "unreachable": (unreachable, "error code 3"),
    "mistaken": (mistaken, "/data: no such folder"),
    "empty": (empty, "no adapter"),
    "no adapter": (without(messages.ADAPTER), "no adapter"),
    "no metrics": (without(messages.METRICS), "no metrics"),
    "NaN": (poisoned(math.nan), "head.lora_B has values that are not finite"),
    "huge": (poisoned(3e38), "head.lora_B has values up to 3e+38, expected at most 1e+06"),
    "infinity": (poisoned(-math.inf), "head.lora_B has values that are not finite"),
    "transposed": (with_tensors(transposed), "expected"),
    "rank too low": (of_rank(3), "rank 3, expected 4"),
    "rank too high": (of_rank(5), "rank 5, expected 4"),
    "float64": (with_tensors(as_double), "head.lora_A is"),
    "a layer too few": (
        with_tensors(lambda a: [a.pop("head.lora_A"), a.pop("head.lora_B")]),
        "layer head is missing",
    ),
    "half a layer": (with_tensors(lambda a: a.pop("head.lora_B")), "head.lora_B is missing"),
    "garbled": (garbled, "the adapter cannot be read as safetensors"),
    "no examples": (with_numbers(num_examples=0), "num-examples is 0"),
    "loss is NaN": (with_numbers(loss=math.nan), "loss is nan"),
}


@pytest.mark.parametrize("share", ["site", "examples"])
@pytest.mark.parametrize("fault", TRAIN_FAULTS)
def test_a_failed_training_cannot_touch_the_rest(fault: str, share: str) -> None:
    breaks, reason = TRAIN_FAULTS[fault]
    config = make_config(sites=2, share=share)
    without_it = play(config, FakeGrid(nodes(*two_sites())))
    bad = FakeSite("Philips", 20, STEADY, faults={(t, messages.TRAIN): breaks for t in (1, 2, 3)})
    with_it = play(config, FakeGrid(nodes(bad, *two_sites())))
    for server_round in (1, 2, 3):
        refused = with_it.refused(server_round)
        assert list(refused) == [("Philips", "train")]
        assert reason in refused["Philips", "train"]
        assert with_it.penalties(server_round) == without_it.penalties(server_round)
        one, other = with_it.states[server_round], without_it.states[server_round]
        assert same_bits(one.parameters, other.parameters)
    assert without_it.penalties(1) == {"GE": 0.8, "Siemens": 1.0}


VALIDATION_FAULTS: dict[str, tuple[Fault, str]] = {
    "silent": (silent, "no answer"),
    "crashed": (crashed, "RuntimeError: out of memory"),
    "mistaken": (mistaken, "/data: no such folder"),
    "empty": (empty, "no metrics"),
    "NaN": (with_numbers(dice=math.nan), "dice is nan"),
    "above one": (with_numbers(dice=1.5), "dice is 1.5"),
    "a list": (with_numbers(dice=[1, 2]), "expected a number"),
}


@pytest.mark.parametrize("fault", VALIDATION_FAULTS)
def test_a_site_that_does_not_validate_keeps_weight_one(fault: str) -> None:
    breaks, reason = VALIDATION_FAULTS[fault]
    gains = FakeSite("Philips", 20, GAINS, faults={(1, messages.VALIDATE): breaks})
    outcome = play(make_config(), FakeGrid(nodes(gains, *two_sites())))
    assert outcome.penalties(1) == {"GE": 0.8, "Philips": 1.0, "Siemens": 1.0}
    assert list(outcome.refused(1)) == [("Philips", "validate")]
    assert reason in outcome.refused(1)["Philips", "validate"]
    assert outcome.history[1].sites["Philips"]["share"] == 1 / 3
    assert "validation" not in outcome.history[1].sites["Philips"]
    # the last report counts as the one before
    assert outcome.history[2].sites["Philips"]["previous"] == GAINS[0]


def test_a_loss_that_was_not_reported_damps_nobody() -> None:
    ge, siemens = two_sites()
    siemens.faults[1, messages.VALIDATE] = with_numbers(dice=math.nan)
    outcome = play(make_config(sites=2), FakeGrid(nodes(ge, siemens)))
    assert outcome.penalties(1) == {"GE": 1.0, "Siemens": 1.0}


def test_a_round_in_which_nobody_validates_is_the_first_merge() -> None:
    sites = two_sites()
    for site in sites:
        site.faults[2, messages.VALIDATE] = silent
    grid = FakeGrid(nodes(*sites))
    outcome = play(make_config(sites=2), grid)
    first = message_adapter(grid.sent(2, messages.VALIDATE)["GE"])
    assert same_bits(outcome.states[2].parameters, first)
    assert outcome.states[2].previous == outcome.states[1].previous
    assert sorted(outcome.history) == [0, 1, 2, 3]


def test_a_base_that_was_not_rated_damps_nobody() -> None:
    sites = two_sites()
    sites[1].faults[0, messages.VALIDATE] = crashed
    outcome = play(make_config(sites=2), FakeGrid(nodes(*sites)))
    assert outcome.states[0].previous == {"GE": 0.3}
    assert outcome.penalties(1) == {"GE": 1.0, "Siemens": 1.0}
    assert outcome.penalties(2)["GE"] < 1.0


@pytest.mark.parametrize("fault", ["silent", "crashed", "NaN"])
def test_too_few_sites_stop_the_run_and_keep_what_was_saved(fault: str) -> None:
    breaks, reason = TRAIN_FAULTS[fault]
    config = make_config(sites=2)
    intact = play(config, FakeGrid(nodes(*two_sites())))
    sites = two_sites()
    sites[0].faults[3, messages.TRAIN] = breaks
    outcome = prepare(config)
    with pytest.raises(UserError) as caught:
        go_on(outcome, FakeGrid(nodes(*sites)))
    text = str(caught.value)
    assert text.startswith("round 3: 1 site(s) trained, expected at least min-sites = 2 (GE: ")
    assert reason in text
    assert "round 2 is saved" in text
    assert sorted(outcome.states) == [0, 1, 2]
    assert same_bits(outcome.states[2].parameters, intact.states[2].parameters)
    assert same_bits(outcome.strategy.state.parameters, intact.states[2].parameters)
    assert outcome.states[2].previous == intact.states[2].previous


def test_sites_that_left_are_named_when_too_few_are_left() -> None:
    sites = two_sites()
    grid = FakeGrid(nodes(*sites))
    outcome = prepare(make_config(sites=2), events={1: lambda: grid.nodes.pop(2)})
    with pytest.raises(UserError, match=r"round 2: 1 site\(s\) trained.*\(Siemens: no answer\)"):
        go_on(outcome, grid)


def test_a_site_that_left_is_in_the_history_and_the_rest_goes_on() -> None:
    config = make_config()
    grid = FakeGrid(nodes(*two_sites(), FakeSite("Philips", 20, STEADY)))
    outcome = play(config, grid, events={1: lambda: grid.nodes.pop(3)})
    assert outcome.refused(1) == {}
    for server_round in (2, 3):
        assert outcome.refused(server_round)["Philips", "train"] == "no answer"
        assert sorted(outcome.penalties(server_round)) == ["GE", "Siemens"]
        assert set(grid.sent(server_round, messages.TRAIN)) == {"GE", "Siemens"}
        assert outcome.history[server_round].sites["GE"]["share"] == 0.5


def test_a_base_model_that_differs_is_turned_away_before_any_training() -> None:
    stranger = FakeSite("Philips", 20, STEADY, sha256="b" * 64)
    grid = FakeGrid(nodes(stranger, *two_sites()))
    outcome = play(make_config(base_sha256="A" * 64), grid)
    reason = outcome.refused(0)["Philips", "join"]
    assert reason == "its base model has SHA-256 bbbbbbbbbbbbbbbb…, expected aaaaaaaaaaaaaaaa…"
    asked = [kind for _, kind, site, _ in grid.log if site == "Philips"]
    assert asked == [messages.DESCRIBE]
    alone = play(make_config(sites=2), FakeGrid(nodes(*two_sites())))
    assert same_bits(outcome.states[3].parameters, alone.states[3].parameters)


def test_without_a_fingerprint_all_bases_must_agree() -> None:
    stranger = FakeSite("Zebra", 20, STEADY, sha256="b" * 64)
    outcome = play(make_config(), FakeGrid(nodes(stranger, *two_sites())))
    assert list(outcome.refused(0)) == [("Zebra", "join")]


@pytest.mark.parametrize("others", [[], [FakeSite("Canon"), FakeSite("Zebra", sha256="b" * 64)]])
def test_a_base_that_half_of_the_sites_have_is_not_the_runs(others: list[FakeSite]) -> None:
    sites = [FakeSite("AAA liar", sha256="b" * 64), FakeSite("GE"), *others]
    outcome = prepare(make_config(sites=len(sites), min_sites=1))
    with pytest.raises(UserError, match=r"none is that of most .* set base-sha256"):
        go_on(outcome, FakeGrid(nodes(*sites)))


def test_a_run_without_enough_sites_names_those_turned_away() -> None:
    config = make_config(base_sha256="a" * 64, sites=2)
    stranger = FakeSite("Philips", 20, STEADY, sha256="b" * 64)
    outcome = prepare(config)
    with pytest.raises(UserError, match="min-sites = 2: Philips: its base model has SHA-256 b"):
        go_on(outcome, FakeGrid(nodes(FakeSite("GE"), stranger)))
    assert outcome.history == {}


def test_a_run_without_enough_nodes_says_how_long_it_waited(clock: SimpleNamespace) -> None:
    outcome = prepare(make_config(wait_s=30))
    grid = FakeGrid(nodes(FakeSite("GE")))
    with pytest.raises(UserError, match=r"1 site.* min-sites = 2: 1 connected within 30 s"):
        go_on(outcome, grid)
    assert clock.now >= 30


def test_a_node_that_does_not_describe_itself_is_named() -> None:
    mute = FakeSite("Philips", faults={(0, messages.DESCRIBE): silent})
    outcome = prepare(make_config(sites=2))
    with pytest.raises(UserError, match="min-sites = 2: node 2: no answer"):
        go_on(outcome, FakeGrid(nodes(FakeSite("GE"), mute)))


def test_the_run_waits_for_its_sites(clock: SimpleNamespace) -> None:
    late = FakeSite("Philips", 20, STEADY)
    grid = FakeGrid(nodes(*two_sites()))
    listed = grid.get_node_ids

    def joins_after_ten_seconds() -> list[int]:
        if clock.now >= 10:
            grid.nodes[3] = late
        return list(listed())

    grid.get_node_ids = joins_after_ten_seconds  # type: ignore[method-assign]
    outcome = play(make_config(wait_s=60), grid)
    assert sorted(outcome.penalties(1)) == ["GE", "Philips", "Siemens"]
    assert clock.now < 60


def test_of_two_nodes_with_one_name_none_takes_part_until_one_is_gone() -> None:
    ge, thief, siemens = FakeSite("GE", 10, GAINS), FakeSite("GE", 10, GAINS), two_sites()[1]
    grid = FakeGrid({1: ge, 2: thief, 3: siemens, 4: FakeSite("Philips", 20, STEADY)})
    outcome = play(make_config(sites=4), grid, events={2: lambda: grid.nodes.pop(2)})
    refused = [r["reason"] for r in outcome.history[0].refused if r["site"] == "GE"]
    assert refused == ["2 connected sites say that they have this name"] * 2
    assert sorted(outcome.penalties(2)) == ["Philips", "Siemens"]
    assert sorted(outcome.penalties(3)) == ["GE", "Philips", "Siemens"]
    assert thief.uploads == {}


class KeyedGrid(FakeGrid):
    """Every node has the key of its number, or one of ``keys``."""

    keys: dict[int, bytes] = {}  # noqa: RUF012

    def get_nodes(self) -> Any:
        return [
            SimpleNamespace(node_id=n, name="", public_key=self.keys.get(n, b"%d" % n))
            for n in self.nodes
        ]


@pytest.mark.parametrize("kind", [FakeGrid, KeyedGrid])
def test_a_name_that_was_taken_while_its_site_was_away_is_given_back(kind: type[FakeGrid]) -> None:
    """Without registration the thief has the name until the owner is back; with it, never."""
    ge, thief = FakeSite("GE", 10, GAINS), FakeSite("GE", 10, GAINS)
    grid = kind({1: ge, 2: two_sites()[1], 3: FakeSite("Philips", 20, STEADY)})

    def swap() -> None:
        del grid.nodes[1]
        grid.nodes[99] = thief

    events = {1: swap, 2: lambda: grid.nodes.update({1: ge})}
    outcome = play(make_config(), grid, events=events)
    assert [*thief.uploads] == ([] if kind is KeyedGrid else [2])
    assert [*ge.uploads] == [1, 3]
    taken = "in this run the name belongs to another site"
    assert outcome.refused(2 if kind is KeyedGrid else 3)["GE", "join"] == taken
    assert sorted(outcome.penalties(3)) == ["GE", "Philips", "Siemens"]


def test_a_registered_site_that_starts_again_under_another_number_is_the_same_site() -> None:
    grid = KeyedGrid(nodes(*two_sites(), FakeSite("Philips", 20, STEADY)))
    grid.keys = {99: b"1"}

    def restart() -> None:
        grid.nodes[99] = grid.nodes.pop(1)

    outcome = play(make_config(), grid, events={1: restart})
    assert outcome.refused(2) == {}
    assert sorted(outcome.penalties(2)) == ["GE", "Philips", "Siemens"]


def test_where_sites_are_not_registered_their_keys_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(UNREGISTERED, "1")
    grid = KeyedGrid(nodes(*two_sites(), FakeSite("Philips", 20, STEADY)))

    def restart() -> None:
        grid.nodes[99] = grid.nodes.pop(1)

    outcome = play(make_config(), grid, events={1: restart})
    assert outcome.refused(2) == {}
    assert sorted(outcome.penalties(2)) == ["GE", "Philips", "Siemens"]


def test_a_site_that_comes_back_under_a_new_key_is_the_same_site() -> None:
    config = make_config(ranks="2,4,4")
    steady = FakeSite("Philips", 20, STEADY)
    unbroken = play(config, FakeGrid(nodes(*two_sites(), steady)))
    grid = FakeGrid(nodes(*two_sites(), steady))

    def restart() -> None:
        del grid.nodes[1]
        grid.nodes[99] = FakeSite("GE", 10, GAINS)

    outcome = play(config, grid, events={1: restart})
    for server_round in (1, 2, 3):
        assert outcome.refused(server_round) == {}
        assert same_bits(
            outcome.states[server_round].parameters, unbroken.states[server_round].parameters
        )
    assert grid.sent(2, messages.TRAIN)["GE"].metadata.dst_node_id == 99


def test_a_site_is_back_once_its_old_node_is_gone() -> None:
    """A killed SuperNode stays listed for a while, beside the one that replaces it."""
    grid = FakeGrid(nodes(*two_sites(), FakeSite("Philips", 20, STEADY)))

    def restart() -> None:
        grid.nodes[1].faults = {(2, messages.TRAIN): silent, (2, messages.VALIDATE): silent}
        grid.nodes[99] = FakeSite("GE", 10, GAINS)

    events = {1: restart, 2: lambda: grid.nodes.pop(1)}
    outcome = play(make_config(), grid, events=events)
    assert outcome.refused(2)["GE", "train"] == "no answer"
    assert sorted(outcome.penalties(2)) == ["Philips", "Siemens"]
    assert outcome.refused(3) == {}
    assert sorted(outcome.penalties(3)) == ["GE", "Philips", "Siemens"]


def test_a_site_that_joins_later_takes_part_at_the_lowest_rank() -> None:
    grid = FakeGrid(nodes(FakeSite("GE", 100, GAINS), FakeSite("Siemens", 50, LOSES)))
    late = FakeSite("Philips", 999, STEADY)
    outcome = play(
        make_config(sites=2, ranks="by-size"),
        grid,
        events={1: lambda: grid.nodes.update({3: late})},
    )
    assert late.uploads[2].rank == 2
    assert sorted(outcome.penalties(2)) == ["GE", "Philips", "Siemens"]
    assert outcome.penalties(2)["Philips"] == 1.0  # it has no P(t−1) yet


@pytest.mark.parametrize("merge", ["svd", "pad"])
def test_the_rank_survives_a_round_without_the_sites_that_have_it(merge: str) -> None:
    large = FakeSite("Philips", 20, STEADY, faults={(1, messages.TRAIN): silent})
    config = make_config(ranks="2,4,2", merge=merge)
    outcome = play(config, FakeGrid(nodes(large, *two_sites())))
    assert outcome.refused(1) == {("Philips", "train"): "no answer"}
    assert [outcome.states[t].parameters.rank for t in (1, 2, 3)] == [4, 4, 4]
    for server_round in (2, 3):
        assert outcome.refused(server_round) == {}
        assert large.uploads[server_round].rank == 4


def test_a_failed_test_leaves_the_other_scores() -> None:
    sites = two_sites()
    sites[0].faults[3, messages.TEST] = crashed
    grid = FakeGrid(nodes(*sites))
    outcome = play(make_config(sites=2), grid)
    assert sorted(outcome.strategy.test(grid)) == ["Siemens"]


def test_a_reply_from_a_node_that_was_not_asked_is_ignored() -> None:
    def forged(message: Message, reply: Message) -> Message:
        reply.metadata.__dict__["_src_node_id"] = 12345
        return reply

    sites = two_sites()
    outsider = FakeSite("Philips", 20, STEADY, faults={(1, messages.TRAIN): forged})
    outcome = play(make_config(), FakeGrid(nodes(*sites, outsider)))
    assert outcome.refused(1) == {("Philips", "train"): "no answer"}
    assert sorted(outcome.penalties(1)) == ["GE", "Siemens"]
    assert set(SHAPES) == set(adapter_of(outcome.states[1].parameters).layers)


def test_a_site_gets_no_higher_rank_than_it_allows() -> None:
    sites = [*two_sites(), FakeSite("Philips", 10, STEADY, max_rank=3)]
    config = make_config(ranks="4,4,2")
    outcome = play(config, FakeGrid(nodes(*sites)))
    ranks = [entry["rank"] for _, entry in sorted(outcome.history[1].sites.items())]
    assert ranks == [4, 3, 2]
    assert outcome.refused(1) == {}


@pytest.mark.parametrize("share", ["site", "examples"])
def test_a_site_that_trains_with_another_size_than_it_described_is_left_out(share: str) -> None:
    """It is asked to describe itself again, and a size that has changed for good is taken then."""
    sites = [*two_sites(), FakeSite("Philips", 20, STEADY)]
    sites[2].faults = {(1, messages.TRAIN): with_numbers(num_examples=10**6)}
    outcome = play(make_config(share=share), FakeGrid(nodes(*sites)))
    reason = "num-examples is 1000000, the site described 20"
    assert outcome.refused(1) == {("Philips", "train"): reason}
    assert outcome.refused(2) == {}
    assert sorted(outcome.penalties(2)) == ["GE", "Philips", "Siemens"]


def test_no_number_of_a_site_lowers_the_others_ranks() -> None:
    sites = [*two_sites(), FakeSite("Philips", 10**8, STEADY)]
    outcome = play(make_config(ranks="by-size", rank=8), FakeGrid(nodes(*sites)))
    ranks = {name: entry["rank"] for name, entry in outcome.history[1].sites.items()}
    assert ranks == {"GE": 2, "Siemens": 8, "Philips": 8}


@pytest.mark.parametrize("limit", [0, -4])
def test_a_limit_that_is_no_rank_is_refused(limit: int) -> None:
    sites = [*two_sites(), FakeSite("Philips", 10, STEADY, max_rank=limit)]
    outcome = play(make_config(), FakeGrid(nodes(*sites)))
    assert [f"max-rank is {limit}" in reason for reason in outcome.refused(0).values()] == [True]
