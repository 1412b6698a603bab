"""One site with a valid key against the others and the run: what it may say, send or keep back."""

from pathlib import Path

import pytest
import torch
from flwr.app import Message, MetricRecord, RecordDict
from torch import Tensor

from common import messages, records
from common.records import LARGEST
from server_app.checkpoint import load_checkpoint
from server_app.status import read_status
from tests.attacks.kit import always, changed, federate, says, silent, three
from tests.strategies.fakes import FakeGrid, FakeSite


def metric(**numbers: object) -> object:
    """Return what writes these numbers into a reply; None removes one."""

    def change(content: RecordDict) -> None:
        found = content.metric_records[messages.METRICS]
        for key, value in numbers.items():
            name = key.replace("__", ".").replace("_", "-") if "." not in key else key
            if value is None:
                del found[name]
            else:
                found[name] = value  # type: ignore[assignment]

    return change


def tensors(change: object) -> object:
    """Return what alters the adapter of a reply."""

    def altered(content: RecordDict) -> None:
        found = records.record_to_tensors(content.array_records[messages.ADAPTER])
        change(found)  # type: ignore[operator]
        content[messages.ADAPTER] = records.tensors_to_record(found)

    return altered


def fill(value: float) -> object:
    """Return what gives every value of an adapter."""
    return tensors(lambda found: [one.fill_(value) for one in found.values()])


@pytest.mark.parametrize("lie", [10**3, 10**8, 10**15])
def test_a_site_says_that_it_is_huge_to_take_the_others_ranks(tmp_path: Path, lie: int) -> None:
    """A site says that it is huge, so that the others' ranks by size fall to 1."""
    honest = federate(three(), tmp_path / "honest", ranks="by-size", rank=8, rounds=1)
    lying = federate(three(examples=lie), tmp_path / "lying", ranks="by-size", rank=8, rounds=1)
    one, two = (ended.history()[-1]["sites"] for ended in (honest, lying))
    assert [one[site]["rank"] for site in "AB"] == [two[site]["rank"] for site in "AB"]


@pytest.mark.parametrize("lie", [10**3, 10**9])
def test_a_site_says_that_it_is_huge_to_be_the_merge(tmp_path: Path, lie: int) -> None:
    """A site describes itself as huge, so that its adapter is the merge by examples."""
    ended = federate(three(examples=lie), tmp_path, share="examples", rounds=1)
    assert ended.error is None
    assert ended.history()[-1]["sites"]["Z"]["share"] < 0.9


def test_a_site_says_in_training_that_it_is_huge(tmp_path: Path) -> None:
    """A site says with its update, and not before, that it is huge."""
    sites = three(faults=always(messages.TRAIN, changed(metric(num_examples=10**6))))
    ended = federate(sites, tmp_path / "lying", share="examples")
    alone = federate({1: sites[1], 2: sites[2]}, tmp_path / "alone", share="examples", sites=2)
    assert ended.same_result(alone)


def test_two_sites_say_the_same_name(tmp_path: Path) -> None:
    """A site says the name of another, both are connected: neither takes part in its place."""
    real, thief = FakeSite("GE"), FakeSite("GE")
    ended = federate({5: thief, 9: real, 2: FakeSite("A"), 3: FakeSite("B")}, tmp_path, rounds=1)
    assert ended.error is None
    assert thief.uploads == {}
    assert ended.refused()[0, "GE", "join"] == "2 connected sites say that they have this name"


def test_a_site_takes_a_name_while_its_owner_is_away(tmp_path: Path) -> None:
    """A site takes the name of another that is away: the owner gets back in and it is put out."""
    real, thief = FakeSite("GE"), FakeSite("GE")
    last = FakeSite("Z")  # the server asks the sites in the order of their names
    grid = FakeGrid({9: real, 2: FakeSite("A"), 3: last})

    def swap(_message: Message, reply: Message) -> Message:
        grid.nodes.pop(9, None)
        grid.nodes[77] = thief
        return reply

    def back(_message: Message, reply: Message) -> Message:
        grid.nodes[9] = real
        return reply

    last.faults = {(1, messages.VALIDATE): swap, (2, messages.VALIDATE): back}
    ended = federate(grid, tmp_path, rounds=4)
    assert ended.error is None
    assert {3, 4} <= set(real.uploads)
    assert not {3, 4} & set(thief.uploads)


@pytest.mark.parametrize(
    "change",
    [
        metric(cases=None),
        metric(cases=float("nan")),
        metric(cases=float("inf")),
        metric(cases=10**18),
        metric(**{"test.dice.LV": None}),
        metric(**{"test.dice.mean": -7.0}),
        metric(**{"test.hd95_mm.mean": 1e300}),
        metric(**{f"k{n}.a.b": 0.5 for n in range(10**4)}),
        lambda content: content.update({messages.METRICS: MetricRecord()}),
    ],
)
def test_a_test_reply_cannot_end_the_run(tmp_path: Path, change: object) -> None:
    """A site's reply to the last test lacks a number, or has a strange one or too many."""
    faults = always(messages.TEST, changed(change))
    ended = federate(three(faults=faults), tmp_path, rounds=1)
    assert ended.error is None
    status = read_status(tmp_path / "status.json")
    assert status is not None
    assert status.state == "finished"
    assert (tmp_path / "summary.json").stat().st_size < 10**4


def test_an_error_text_of_megabytes(tmp_path: Path) -> None:
    """A site answers with megabytes of error text, with control characters in it."""
    text = "no\nWARNING :  B is left out\x1b]0;mine\x07" * 10**5
    ended = federate(three(faults=always(messages.TRAIN, says(text))), tmp_path)
    assert (tmp_path / "history.jsonl").stat().st_size < 10**4
    assert all(reason.isprintable() for reason in ended.refused().values())


@pytest.mark.parametrize("merge", ["svd", "pad"])
@pytest.mark.parametrize("server_round", [1, 2, 3])
def test_one_poisoned_update_cannot_end_the_run(
    tmp_path: Path, merge: str, server_round: int
) -> None:
    """A site sends the largest values that pass: the merge stays one that every site takes."""
    faults = {(server_round, messages.TRAIN): changed(fill(LARGEST))}
    ended = federate(three(faults=faults), tmp_path, rounds=4, merge=merge)
    assert ended.error is None
    state = load_checkpoint(tmp_path / "checkpoint.safetensors")
    assert all(float(one.abs().max()) <= LARGEST for one in state.parameters.tensors().values())
    assert state.server_round == 4
    assert len(ended.history()[-1]["sites"]) == 3
    assert not [key for key in ended.refused() if key[0] > server_round]


def test_all_updates_are_poisoned_in_a_round(tmp_path: Path) -> None:
    """Every site sends the largest values that pass: the round is dropped, the run goes on."""
    faults = {(2, messages.TRAIN): changed(fill(LARGEST))}
    sites = {n: FakeSite(name, faults=faults) for n, name in enumerate("ABZ", start=1)}
    ended = federate(sites, tmp_path, plots=True)
    assert ended.error is None
    assert [bool(line.get("dropped")) for line in ended.history()] == [False, False, True, False]


def test_a_mute_site(tmp_path: Path) -> None:
    """A site stays connected and never answers: it costs ever fewer time-outs."""
    asked: list[str] = []

    def mute(message: Message, _reply: Message) -> None:
        asked.append(message.metadata.message_type)

    faults = {**always(messages.TRAIN, mute), **always(messages.VALIDATE, mute)}
    ended = federate(three(faults=faults), tmp_path, rounds=20)
    assert ended.error is None
    assert len(asked) <= 6


def test_the_base_is_not_that_of_whoever_sorts_first(tmp_path: Path) -> None:
    """A site with another base file and a name that sorts first cannot make it the run's."""
    sites = {1: FakeSite("AAA liar", sha256="b" * 64), 2: FakeSite("GE")}
    ended = federate(sites, tmp_path, rounds=1, sites=2, min_sites=1)
    assert "set base-sha256" in str(ended.error)


def test_a_giant_reply(tmp_path: Path) -> None:
    """A site sends a reply that is larger than any that was asked for: it is not opened."""
    giant = records.tensors_to_record({"x": torch.zeros(2**20)})
    send = changed(lambda content: content.update({messages.ADAPTER: giant}))
    sites = three(faults=always(messages.TRAIN, send))
    ended = federate(sites, tmp_path / "giant", rounds=1)
    assert "has more than" in ended.refused()[1, "Z", "train"]
    alone = federate({1: FakeSite("A"), 2: FakeSite("B")}, tmp_path / "two", rounds=1, sites=2)
    assert ended.same_result(alone)


def put(value: float) -> object:
    """Return what puts one value into an adapter."""

    def change(found: dict[str, Tensor]) -> None:
        found["head.lora_A"][0, 0] = value

    return tensors(change)


@pytest.mark.parametrize(
    "change",
    [
        put(float("nan")),
        put(float("inf")),
        put(1.1e6),
        tensors(lambda t: t.update({"head.lora_A": t["head.lora_A"].double()})),
        tensors(lambda t: t.update({"head.lora_A": t["head.lora_A"].bfloat16()})),
        tensors(lambda t: t.pop("head.lora_B")),
        tensors(lambda t: t.update({"more": torch.zeros(1)})),
    ],
)
def test_bad_values_do_not_reach_the_merge(tmp_path: Path, change: object) -> None:
    """A site sends values, types or layers that were not agreed: the others' merge is the same."""
    sites = three(faults=always(messages.TRAIN, changed(change)))
    ended = federate(sites, tmp_path / "three", rounds=1)
    alone = federate({1: FakeSite("A"), 2: FakeSite("B")}, tmp_path / "two", rounds=1, sites=2)
    assert ended.same_result(alone)


@pytest.mark.parametrize("kind", [messages.DESCRIBE, messages.TRAIN, messages.VALIDATE])
def test_silence_in_one_kind_of_request(tmp_path: Path, kind: str) -> None:
    """A site leaves one kind of request without an answer."""
    ended = federate(three(faults=always(kind, silent)), tmp_path)
    assert ended.error is None
    assert {"A", "B"} <= set(ended.history()[-1]["sites"])


def test_a_name_that_no_rank_is_listed_for(tmp_path: Path) -> None:
    """A site takes a name that the run's list of ranks lacks, so that the run cannot begin."""
    ended = federate(three(), tmp_path, rounds=1, ranks="A=4,B=2", rank=4)
    assert ended.error is None
    ranks = {site: entry["rank"] for site, entry in ended.history()[-1]["sites"].items()}
    assert ranks == {"A": 4, "B": 2, "Z": 2}


@pytest.mark.parametrize("name", ["Z ", " Z", " "])
def test_an_excluded_name_with_a_space(tmp_path: Path, name: str) -> None:
    """A site that the run excludes adds a space to its name, by which nobody tells it apart."""
    ended = federate(three(name=name), tmp_path, rounds=1, exclude="Z")
    assert ended.error is None
    assert set(ended.history()[-1]["sites"]) == {"A", "B"}


@pytest.mark.parametrize("honest", [True, False])
def test_every_site_has_answered_the_round_before(tmp_path: Path, *, honest: bool) -> None:
    """Sites say that they answered another request for a round, as after an older checkpoint."""
    fault = {(2, messages.TRAIN): says(messages.ANSWERED)}
    sites = {1: FakeSite("A", faults=fault), 2: FakeSite("B", faults=fault)}
    sites[3] = FakeSite("Z", faults={} if honest else fault)
    ended = federate(sites, tmp_path, min_sites=2)
    assert ended.error is None
    told = f"{3 - honest} sites answered another request for this round before"
    assert [line.get("dropped") for line in ended.history()] == [None, None, told, None]
    assert ended.refused()[2, "A", "train"] == messages.ANSWERED
    assert set(ended.history()[-1]["sites"]) == {"A", "B", "Z"}


def test_too_few_sites_still_end_a_run(tmp_path: Path) -> None:
    """One site that answered before does not stand for the two that are missing."""
    faults = [{(2, messages.TRAIN): how} for how in (says(messages.ANSWERED), silent, silent)]
    sites = {n: FakeSite(name, faults=faults[n]) for n, name in enumerate("ABZ")}
    ended = federate(sites, tmp_path, min_sites=2)
    assert "round 2: 0 site(s) trained, expected at least min-sites = 2" in str(ended.error)
