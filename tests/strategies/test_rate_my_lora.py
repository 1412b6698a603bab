"""The method as a whole, on scripted sites: what is sent, merged, rated, merged again, returned."""

from collections.abc import Mapping

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from torch import Tensor

from common import lora, messages, records
from common.adapter import Adapter, Factors
from common.errors import UserError
from common.model import build_unet
from strategies import RateMyLoRA, merging
from strategies.rules.penalty import damping
from strategies.state import RunState
from tests.conftest import adapter_of
from tests.strategies.fakes import (
    LOCAL_DICE,
    SHA,
    SHAPES,
    FakeGrid,
    FakeSite,
    Fault,
    go_on,
    initial_state,
    make_config,
    message_adapter,
    nodes,
    play,
    prepare,
    random_adapter,
    same_bits,
    trained,
)

GAINS = {0: 0.3, 1: 0.4, 2: 0.5, 3: 0.6, 4: 0.7}
LOSES = {0: 0.7, 1: 0.6, 2: 0.5, 3: 0.4, 4: 0.3}
WAVERS = {0: 0.5, 1: 0.5, 2: 0.6, 3: 0.5, 4: 0.6}
SIZES = {"GE": 10, "Philips": 20, "Siemens": 20}
NUMBERS = sum(c_out + fan_in for c_out, fan_in in SHAPES.values())
"""Numbers in an adapter of rank 1."""


def three_sites() -> list[FakeSite]:
    return [
        FakeSite("GE", SIZES["GE"], GAINS),
        FakeSite("Philips", SIZES["Philips"], LOSES),
        FakeSite("Siemens", SIZES["Siemens"], WAVERS),
    ]


def content_with_sites() -> list[FakeSite]:
    """Return sites none of which ever loses Dice."""
    return [FakeSite(name, n, GAINS) for name, n in SIZES.items()]


def by_hand_pad(adapters: Mapping[str, Adapter], mass: Mapping[str, float], rank: int) -> Adapter:
    layers = {}
    for layer, (c_out, fan_in) in SHAPES.items():
        a = torch.zeros(rank, fan_in, dtype=torch.float64)
        b = torch.zeros(c_out, rank, dtype=torch.float64)
        for site in sorted(adapters):
            found = adapters[site].layers[layer]
            a[: len(found.A)] += mass[site] * found.A.double()
            b[:, : len(found.A)] += mass[site] * found.B.double()
        layers[layer] = Factors(a.float(), b.float())
    return Adapter(layers, next(iter(adapters.values())).scale)


def by_hand_svd(
    adapters: Mapping[str, Adapter], mass: Mapping[str, float], rank: int, layer: str
) -> Tensor:
    """Return the dense weight change of one layer."""
    mean = torch.zeros(SHAPES[layer], dtype=torch.float64)
    for site, adapter in adapters.items():
        mean += mass[site] * adapter.delta(layer).double()
    u, s, vt = torch.linalg.svd(mean, full_matrices=False)
    best: Tensor = (u[:, :rank] * s[:rank]) @ vt[:rank]
    return best.float()


@pytest.mark.parametrize("share", ["site", "examples"])
@pytest.mark.parametrize("merge", ["svd", "pad"])
@pytest.mark.parametrize("ranks", ["equal", "2,4,4"])
def test_without_lambda_the_run_is_plain_averaging(share: str, merge: str, ranks: str) -> None:
    config = make_config(lambda_0=0.0, share=share, merge=merge, ranks=ranks)
    outcome = play(config, FakeGrid(nodes(*three_sites())))

    rank_of = {"GE": 2 if ranks == "2,4,4" else 4, "Philips": 4, "Siemens": 4}
    mass = {"GE": 0.2, "Philips": 0.4, "Siemens": 0.4}
    if share == "site":
        mass = dict.fromkeys(mass, 1 / 3)
    adapter = adapter_of(initial_state(config).parameters)
    for server_round in (1, 2, 3):
        sent = {site: adapter.truncated(rank) for site, rank in rank_of.items()}
        back = {site: trained(site, server_round, start) for site, start in sent.items()}
        pad = merge == "pad"
        adapter = by_hand_pad(back, mass, 4) if pad else merging.merge(back, mass, "svd")
    assert outcome.result is not None
    assert same_bits(outcome.result, adapter)
    assert all(set(outcome.penalties(t).values()) == {1.0} for t in (1, 2, 3))


@pytest.mark.parametrize("merge", ["svd", "pad"])
def test_without_a_loser_the_re_merge_is_the_first_merge(merge: str) -> None:
    config = make_config(merge=merge, lambda_0=0.9)
    grid = FakeGrid(nodes(*content_with_sites()))
    outcome = play(config, grid)
    for server_round in (1, 2, 3):
        assert set(outcome.penalties(server_round).values()) == {1.0}
        validated = grid.sent(server_round, messages.VALIDATE)["GE"]
        assert same_bits(outcome.states[server_round].parameters, message_adapter(validated))


@pytest.mark.parametrize("normalise", ["yes", "no"])
@pytest.mark.parametrize("share", ["site", "examples"])
@pytest.mark.parametrize("merge", ["svd", "pad"])
def test_a_penalised_round_is_the_weighted_merge(merge: str, share: str, normalise: str) -> None:
    config = make_config(
        merge=merge, share=share, normalise=normalise, ranks="2,4,4", alpha_per_rank=0.5, rounds=2
    )
    sites = three_sites()
    outcome = play(config, FakeGrid(nodes(*sites)))

    for server_round, damped in ((1, {"GE"}), (2, {"GE", "Siemens"})):
        lam = 0.2 * 0.95 ** (server_round - 1)
        expected = {site: 1 - lam if site in damped else 1.0 for site in SIZES}
        assert outcome.penalties(server_round) == pytest.approx(expected, abs=1e-15)
        total = 3 if share == "site" else sum(SIZES.values())
        mass = {s: w * (1 if share == "site" else SIZES[s]) / total for s, w in expected.items()}
        if normalise == "yes":
            mass = {site: m / sum(mass.values()) for site, m in mass.items()}
        uploads = {site.name: Adapter(site.uploads[server_round].layers, 0.5) for site in sites}
        found = adapter_of(outcome.states[server_round].parameters)
        for layer in SHAPES:
            if merge == "pad":
                wanted = by_hand_pad(uploads, mass, 4).delta(layer)
            else:
                wanted = by_hand_svd(uploads, mass, 4, layer)
            torch.testing.assert_close(found.delta(layer), wanted, rtol=1e-5, atol=1e-6)


def test_normalising_follows_the_merge() -> None:
    runs = {
        normalise: play(make_config(normalise=normalise), FakeGrid(nodes(*three_sites())))
        for normalise in ("auto", "yes", "no")
    }
    assert same_bits(runs["auto"].states[3].parameters, runs["yes"].states[3].parameters)
    assert not same_bits(runs["auto"].states[1].parameters, runs["no"].states[1].parameters)


@pytest.mark.parametrize("merge", ["svd", "pad"])
def test_a_round_starts_from_the_last_re_merge_at_the_sites_rank(merge: str) -> None:
    config = make_config(merge=merge, ranks="2,4,3")
    grid = FakeGrid(nodes(*three_sites()))
    outcome = play(config, grid)
    for server_round in (1, 2, 3):
        before = adapter_of(outcome.states[server_round - 1].parameters)
        for site, rank in (("GE", 2), ("Philips", 4), ("Siemens", 3)):
            message = grid.sent(server_round, messages.TRAIN)[site]
            order = message.content[messages.CONFIG]
            assert isinstance(order, ConfigRecord)
            assert order["site-rank"] == rank
            assert order["server-round"] == server_round
            assert same_bits(message_adapter(message), before.truncated(rank))
        first = message_adapter(grid.sent(server_round, messages.VALIDATE)["Philips"])
        assert not same_bits(first, outcome.states[server_round].parameters)  # GE was damped


def test_the_result_is_the_last_re_merge_not_the_first_merge() -> None:
    grid = FakeGrid(nodes(*three_sites()))
    outcome = play(make_config(), grid)
    assert outcome.result is not None
    assert same_bits(outcome.result, outcome.states[3].parameters)
    first = message_adapter(grid.sent(3, messages.VALIDATE)["GE"])
    assert not same_bits(outcome.result, first)


def test_the_server_side_evaluation_sees_the_re_merge() -> None:
    grid = FakeGrid(nodes(*three_sites()))
    outcome = prepare(make_config())
    strategy = outcome.strategy
    seen: dict[int, ArrayRecord] = {}

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        seen[server_round] = arrays
        return MetricRecord({"round": server_round})

    initial = strategy.arrays()
    result = strategy.start(grid, initial, num_rounds=3, evaluate_fn=evaluate)
    assert sorted(seen) == [0, 1, 2, 3]
    for server_round, arrays in seen.items():
        assert arrays == records.tensors_to_record(
            outcome.states[server_round].parameters.tensors()
        )
    assert [m["round"] for m in result.evaluate_metrics_serverapp.values()] == [0, 1, 2, 3]


def test_neither_node_ids_nor_the_order_of_replies_matter() -> None:
    config = make_config(ranks="by-size", share="examples")
    plain = play(config, FakeGrid(nodes(*three_sites())))
    for shuffle in range(4):
        ids = [[70, 3, 9], [2, 1, 3], [5, 4, 1], [8, 9, 7]][shuffle]
        grid = FakeGrid(dict(zip(ids, three_sites(), strict=True)), shuffle)
        other = play(config, grid)
        for server_round in (1, 2, 3):
            one, two = plain.states[server_round], other.states[server_round]
            assert same_bits(one.parameters, two.parameters)
            assert one.previous == two.previous


def test_a_round_is_compared_with_the_first_merge_of_the_round_before() -> None:
    outcome = play(make_config(previous="first"), FakeGrid(nodes(*three_sites())))
    for server_round in (1, 2, 3):
        entry = outcome.history[server_round].sites["Siemens"]
        assert entry["validation"] == WAVERS[server_round]
        assert entry["previous"] == WAVERS[server_round - 1]
    assert [outcome.penalties(t)["Siemens"] == 1 for t in (1, 2, 3)] == [True, False, True]


def penalised_sites(*, chatty: bool) -> list[FakeSite]:
    """Return sites that rate the re-merge unlike the first merge: only Siemens gained by it."""
    starts = {"GE": {t: GAINS[t] for t in GAINS}, "Philips": {t: LOSES[t] + 0.1 for t in LOSES}}
    starts["Siemens"] = {t: WAVERS[t] - 0.1 for t in WAVERS}
    sites = three_sites()
    for site in sites:
        site.start_dice, site.chatty = starts[site.name], chatty
    return sites


def test_previous_may_be_the_dice_that_training_started_from() -> None:
    config = make_config(previous="penalised")
    outcome = play(config, FakeGrid(nodes(*penalised_sites(chatty=False))))
    for server_round in (1, 2, 3):
        lam = damping(0.2, 0.95, server_round)
        expected = {"GE": 1.0, "Philips": 1.0, "Siemens": 1 - lam}
        assert outcome.penalties(server_round) == expected


def test_previous_is_the_runs_choice_not_the_sites() -> None:
    config = make_config(previous="first")
    told = play(config, FakeGrid(nodes(*penalised_sites(chatty=True))))
    untold = play(config, FakeGrid(nodes(*three_sites())))
    assert [told.penalties(t) for t in (1, 2, 3)] == [untold.penalties(t) for t in (1, 2, 3)]
    assert same_bits(told.states[3].parameters, untold.states[3].parameters)


def test_lambda_falls_from_round_to_round() -> None:
    outcome = play(make_config(lambda_0=0.5, decay=0.8), FakeGrid(nodes(*three_sites())))
    assert [outcome.history[t].lambda_t for t in (0, 1, 2, 3)] == [0.0, 0.5, 0.4, 0.5 * 0.8**2]


@pytest.mark.parametrize("previous", ["first", "penalised"])
@pytest.mark.parametrize("stopped", [0, 1, 2, 3])
def test_a_resumed_run_ends_as_an_unbroken_one(previous: str, stopped: int) -> None:
    config = make_config(rounds=4, ranks="by-size", previous=previous)
    unbroken = play(config, FakeGrid(nodes(*penalised_sites(chatty=False))))

    saved = unbroken.states[stopped]
    state = RunState(saved.parameters, saved.server_round, dict(saved.previous))
    resumed = play(config, FakeGrid(nodes(*penalised_sites(chatty=False))), state)
    assert sorted(resumed.history) == list(range(stopped + 1, 5))
    for server_round, record in resumed.history.items():
        assert resumed.states[server_round].previous == unbroken.states[server_round].previous
        assert resumed.penalties(server_round) == unbroken.penalties(server_round)
        assert record.lambda_t == unbroken.history[server_round].lambda_t
    assert resumed.result is not None
    assert unbroken.result is not None
    assert same_bits(resumed.result, unbroken.result)


def test_a_finished_run_resumes_to_its_result() -> None:
    config = make_config()
    grid = FakeGrid(nodes(*three_sites()))
    outcome = play(config, grid)
    before = outcome.result
    sent = len(grid.log)
    go_on(outcome, grid)
    assert outcome.result is not None
    assert before is not None
    assert same_bits(outcome.result, before)
    assert len(grid.log) == sent


def test_bytes_are_those_of_the_arrays_that_were_sent() -> None:
    outcome = play(make_config(ranks="1,4,2"), FakeGrid(nodes(*three_sites())))
    for site, rank in (("GE", 1), ("Philips", 4), ("Siemens", 2)):
        assert outcome.history[0].sites[site]["bytes_down"] == 0
        for server_round in (1, 2, 3):
            entry = outcome.history[server_round].sites[site]
            assert entry["rank"] == rank
            assert entry["bytes_up"] == 4 * NUMBERS * rank
            assert entry["bytes_down"] == 2 * 4 * NUMBERS * rank  # to train and to validate


def test_a_round_is_recorded_whole() -> None:
    outcome = play(make_config(share="examples"), FakeGrid(nodes(*three_sites())))
    line = outcome.history[1].to_json()
    assert line["round"] == 1
    assert list(line["sites"]) == ["GE", "Philips", "Siemens"]
    entry = line["sites"]["GE"]
    assert {k: entry[k] for k in ("examples", "share", "loss", "train_s", "validation")} == {
        "examples": 10,
        "share": 0.2,
        "loss": 0.5,
        "train_s": 0.0,
        "validation": 0.4,
    }
    assert line["refused"] == []
    assert set(line["seconds"]) == {"train", "merge", "validate", "re-merge"}
    base = outcome.history[0].to_json()
    assert {name: entry["validation"] for name, entry in base["sites"].items()} == {
        "GE": 0.3,
        "Philips": 0.7,
        "Siemens": 0.5,
    }


def test_the_last_hash_of_a_sites_audit_log_is_on_record() -> None:
    def sealed(sha256: str, spoil: bool = False) -> Fault:
        def seal(message: Message, reply: Message) -> Message:
            if spoil:
                reply = Message(messages.Failure(messages.UNEXPECTED).to_record(), reply_to=message)
            messages.seal(reply.content, sha256)
            return reply

        return seal

    sites = three_sites()
    sites[0].faults = {(1, messages.TRAIN): sealed("c" * 64), (1, messages.VALIDATE): sealed(SHA)}
    sites[1].faults = {(1, messages.VALIDATE): sealed("b" * 64, spoil=True)}
    sites[2].faults = {(1, messages.VALIDATE): sealed("none")}
    outcome = play(make_config(), FakeGrid(nodes(*sites)))
    assert outcome.history[1].to_json()["audit"] == {"GE": SHA, "Philips": "b" * 64}
    assert outcome.history[0].audit == outcome.history[2].audit == {}


def test_the_final_test_rates_the_result_at_its_full_rank() -> None:
    grid = FakeGrid(nodes(*three_sites()))
    outcome = play(make_config(ranks="2,4,4"), grid)
    scores = outcome.strategy.test(grid)
    assert scores == {s: {"cases": 2, **dict.fromkeys(messages.SCORES, 0.5)} for s in SIZES}
    for message in grid.sent(3, messages.TEST).values():
        assert same_bits(message_adapter(message), outcome.states[3].parameters)


def test_phases_are_announced_in_order() -> None:
    outcome = play(make_config(rounds=2), FakeGrid(nodes(*three_sites())))
    assert outcome.phases == [
        *((0, "gather"), (0, "rate base")),
        *((1, "train"), (1, "validate"), (2, "train"), (2, "validate")),
    ]


def test_a_site_rates_its_own_adapter_where_the_run_asks_and_the_merge_is_the_same() -> None:
    plain = play(make_config(), FakeGrid(nodes(*three_sites())))
    rated = play(make_config(local_validation=True), FakeGrid(nodes(*three_sites())))
    assert plain.result is not None
    assert rated.result is not None
    assert same_bits(plain.result, rated.result)
    assert rated.history[1].sites["GE"]["local"] == LOCAL_DICE
    assert "local" not in plain.history[1].sites["GE"]


def test_keys_lie_over_the_configuration() -> None:
    strategy = RateMyLoRA(make_config(rounds=7), lambda_0=0.5, merge="pad", min_sites=1)
    assert strategy.config == make_config(rounds=7, lambda_0=0.5, merge="pad", min_sites=1)
    with pytest.raises(UserError, match="RateMyLoRA: unknown key 'lamda-0'"):
        RateMyLoRA(lamda_0=0.5)


def test_without_a_state_the_run_begins_with_the_adapter_that_sites_draw_too() -> None:
    strategy = RateMyLoRA(features="4,8,8,8,8,4", rank=3, ranks="2,3,3", seed=5)
    shapes = lora.layer_shapes(build_unet((4, 8, 8, 8, 8, 4)))
    assert strategy.shapes.layers == shapes
    assert same_bits(strategy.state.parameters, lora.drawn_adapter(strategy.config, shapes, 3))


def test_start_needs_no_more_than_the_grid() -> None:
    told = play(make_config(rounds=2), FakeGrid(nodes(*three_sites())))
    alone = prepare(make_config(rounds=2))
    result = alone.strategy.start(FakeGrid(nodes(*three_sites())))
    assert sorted(alone.history) == [0, 1, 2]
    assert result.arrays == told.strategy.arrays()
    assert result.evaluate_metrics_clientapp[2]["dice GE"] == GAINS[2]


def test_a_run_begins_with_the_arrays_that_it_is_given() -> None:
    grid, outcome = FakeGrid(nodes(*three_sites())), prepare(make_config())
    given = random_adapter(9, 4)
    outcome.strategy.start(grid, records.adapter_to_record(given), num_rounds=1)
    assert same_bits(message_adapter(grid.sent(1, messages.TRAIN)["GE"]), given)
    with pytest.raises(UserError, match="initial_arrays: rank 3, expected 4"):
        outcome.strategy.start(grid, records.adapter_to_record(random_adapter(9, 3)))


def test_a_preset_sets_the_keys_of_its_method_under_those_that_are_given() -> None:
    config = RateMyLoRA(preset="fedit", rank=3).config
    assert (config.method.merge, config.method.rating, config.model.ranks) == (
        "pad",
        "none",
        "equal",
    )
    assert config.model.rank == 3
    with pytest.raises(UserError, match="preset: found 'fedit2', expected one of"):
        RateMyLoRA(preset="fedit2")
    with pytest.raises(UserError, match="profile: is of server_app"):
        RateMyLoRA(profile="small")
