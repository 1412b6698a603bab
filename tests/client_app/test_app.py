"""What leaves a site, message by message, as the privacy promise says."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from secrets import token_hex

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from safetensors.torch import load
from torch import Tensor

from client_app.app import app
from client_app.assembly import State
from client_app.audit import read_audit
from client_app.memory import OWN
from client_app.settings import SiteSettings
from client_app.site import Site
from common import lora, messages, records
from common.adapter import Adapter
from common.config import RunConfig
from common.messages import TOO_FAR, payload
from common.model import load_base, skeleton
from common.options import Value
from common.weights import Parameters, Weights
from strategies.aggregation import Shapes
from strategies.rate_my_lora import RateMyLoRA
from strategies.state import RoundRecord, RunState
from tests.cardiac.samples import write_mnms2_hearts
from tests.conftest import MakeAdapter
from tests.strategies.fakes import FakeGrid

SCORES = {
    f"{model}.{metric}.{structure}"
    for model in ("base", "test")
    for metric in ("dice", "hd95_mm")
    for structure in ("LV", "MYO", "RV", "mean")
}
RANK = 3
GE = SiteSettings(name="GE", min_train_patients=1, min_patients=1)
"""A site of few patients, which requires no more of them than a simulation does."""
SIMULATED: dict[str, Value] = {"partition-id": 0, "num-partitions": 3}


def hospital(config: RunConfig, **limits: Value) -> dict[str, Value]:
    """Return a hospital's node configuration."""
    return {
        "site": "GE",
        "data-dir": config.data.data_dir,
        "base-model": config.base_model,
        "cache-dir": config.data.cache_dir,
        "approve": "any",
        "min-train-patients": 1,  # the phantom's sites have few patients
        "min-patients": 1,
        **{key.replace("_", "-"): value for key, value in limits.items()},
    }


def ask(
    kind: str,
    config: RunConfig,
    adapter: Adapter | None = None,
    *,
    node: dict[str, Value] | None = None,
    rank: int = RANK,
    more: dict[str, Value] | None = None,
) -> RecordDict:
    """Send a message to the app as Flower does; return its reply but for the audit log's hash.

    Without ``node`` the site is a hospital with the data and base model of ``config``.
    """
    arrays = None if adapter is None else records.adapter_to_record(adapter)
    number = config.federation.rounds if kind == messages.TEST else 1
    request = messages.REQUESTS[kind](config, token_hex(8), number, rank, adapter=arrays)
    content = request.to_record()
    content.config_records[messages.CONFIG].update(more or {})
    message = Message(content, dst_node_id=7, message_type=kind)
    node = hospital(config) if node is None else node
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    reply = app(message, context)
    assert not reply.has_error()
    assert reply.metadata.dst_node_id == message.metadata.src_node_id
    assert context.state == RecordDict()
    return messages.unsealed(reply.content)[0]


def metrics(content: RecordDict) -> MetricRecord:
    found = content[messages.METRICS]
    assert isinstance(found, MetricRecord)
    assert all(isinstance(value, int | float) for value in found.values())  # no list by patient
    return found


def config_of(content: RecordDict) -> ConfigRecord:
    found = content[messages.CONFIG]
    assert isinstance(found, ConfigRecord)
    return found


def test_a_description_is_a_name_a_fingerprint_and_counts(site_config: RunConfig) -> None:
    content = ask(messages.DESCRIBE, site_config)
    facts = Site(GE, site_config).describe()
    assert set(content) == {messages.CONFIG, messages.METRICS}
    assert config_of(content) == {"site": "GE", "base-sha256": facts.base_sha256}
    assert metrics(content) == {
        "train-examples": facts.train_examples,
        "train-cases": facts.train_cases,
        "val-cases": facts.val_cases,
        "test-cases": facts.test_cases,
    }


def test_training_sends_factors_and_three_numbers(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    start = make_adapter(RANK, scale=1.0)
    content = ask(messages.TRAIN, site_config, start)
    assert set(content) == {messages.ADAPTER, messages.METRICS}
    assert set(metrics(content)) == {"num-examples", "loss", "seconds"}
    arrays = content[messages.ADAPTER]
    assert isinstance(arrays, ArrayRecord)
    expected = start.tensors()
    sent = records.record_to_tensors(arrays)
    assert set(sent) == set(expected)
    for name, value in sent.items():
        assert value.shape == expected[name].shape
        assert value.dtype == torch.float32
    result = Site(GE, site_config).train(State(start), server_round=1)
    trained = result.parameters.tensors()
    assert all(torch.equal(sent[k], trained[k]) for k in trained)
    assert metrics(content)["num-examples"] == result.examples
    assert result.loss is not None
    assert metrics(content)["loss"] == round(result.loss, 3)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [({"previous": "penalised"}, "start-dice"), ({"local-validation": True}, "local-dice")],
)
def test_training_sends_a_dice_only_where_the_run_asks(
    site_config: RunConfig, make_adapter: MakeAdapter, asked: dict[str, Value], sent: str
) -> None:
    config = RunConfig.from_flat({**site_config.to_flat(), **asked})
    content = ask(messages.TRAIN, config, make_adapter(RANK, scale=1.0))
    assert set(content) == {messages.ADAPTER, messages.METRICS}
    assert set(metrics(content)) == {"num-examples", "loss", "seconds", sent}


@pytest.mark.parametrize("with_adapter", [False, True])
def test_validation_sends_one_dice_and_a_count(
    site_config: RunConfig, make_adapter: MakeAdapter, with_adapter: bool
) -> None:
    adapter = make_adapter(RANK, scale=1.0) if with_adapter else None
    content = ask(messages.VALIDATE, site_config, adapter)
    site = Site(GE, site_config)
    expected = site.score(State(adapter), "val")
    assert set(content) == {messages.METRICS}
    assert metrics(content) == {
        "dice": round(expected.mean_dice, 3),
        "num-examples": expected.cases,
    }


def test_the_final_test_sends_means_over_patients(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(RANK, scale=1.0)
    content = ask(messages.TEST, site_config, adapter)
    assert set(content) == {messages.METRICS}
    found = metrics(content)
    assert set(found) == {"cases", *SCORES}
    site = Site(GE, site_config)
    assert found["cases"] == len(site.cases["test"])
    assert found["base.dice.mean"] == round(site.score(State(), "test").mean_dice, 3)
    assert found["test.dice.mean"] == round(site.score(State(adapter), "test").mean_dice, 3)


def test_a_simulated_node_answers_for_its_partition(site_config: RunConfig) -> None:
    node: dict[str, Value] = {"partition-id": 2, "num-partitions": 3}
    assert config_of(ask(messages.DESCRIBE, site_config, node=node))["site"] == "Siemens"


def failure(content: RecordDict) -> str:
    """Return the error text of a reply that holds nothing else."""
    assert set(content) == {messages.CONFIG}
    assert set(config_of(content)) == {messages.ERROR}
    return str(config_of(content)[messages.ERROR])


def with_data(config: RunConfig, folder: Path) -> RunConfig:
    return RunConfig.from_flat({**config.to_flat(), "data-dir": str(folder)})


@pytest.mark.parametrize(
    "kind", [messages.DESCRIBE, messages.TRAIN, messages.VALIDATE, messages.TEST]
)
def test_a_mistake_at_the_site_comes_back_as_words(
    tmp_path: Path, site_config: RunConfig, kind: str
) -> None:
    config = with_data(site_config, tmp_path / "nowhere")
    error = failure(ask(kind, config, node=SIMULATED))
    assert error == f"{tmp_path / 'nowhere'}: no such data folder"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a folder with one unreadable image."""
    folder = write_mnms2_hearts(tmp_path / "St Elsewhere", {"GE": 3})
    image = folder / "dataset" / "002" / "002_SA_ES.nii.gz"
    image.write_bytes(image.read_bytes()[:400])
    return image


def test_in_a_simulation_an_error_names_the_file(broken: Path, site_config: RunConfig) -> None:
    config = with_data(site_config, broken.parents[2])
    node: dict[str, Value] = {"partition-id": 0, "num-partitions": 1}
    assert str(broken) in failure(ask(messages.DESCRIBE, config, node=node))


def test_a_hospital_keeps_its_files_and_patients_to_itself_when_it_fails(
    broken: Path, site_config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    error = failure(ask(messages.DESCRIBE, with_data(site_config, broken.parents[2])))
    assert not any(word in error for word in ("002", "nii", "Elsewhere", "/"))
    assert "log" in error
    assert str(broken) in caplog.text


@pytest.mark.parametrize(
    ("kind", "made_rank", "told_rank", "words"),
    [
        (messages.TRAIN, RANK, RANK + 1, "rank 3, expected 4"),
        (messages.VALIDATE, RANK + 2, RANK, "rank 5, expected 3"),
        (messages.TEST, RANK + 2, RANK, "rank 5, expected 3"),
        (messages.TRAIN, None, RANK, "no adapter"),
    ],
)
def test_a_message_with_the_wrong_adapter_is_answered_with_words(
    site_config: RunConfig,
    make_adapter: MakeAdapter,
    kind: str,
    made_rank: int | None,
    told_rank: int,
    words: str,
) -> None:
    adapter = None if made_rank is None else make_adapter(made_rank)
    assert words in failure(ask(kind, site_config, adapter, node=SIMULATED, rank=told_rank))


def test_an_adapter_for_another_model_is_answered_with_words(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    whole = make_adapter(RANK)
    some = Adapter(dict(list(whole.layers.items())[1:]), whole.scale)
    assert "is missing" in failure(ask(messages.TRAIN, site_config, some, node=SIMULATED))


def test_a_key_that_the_site_does_not_know_is_answered_with_words(site_config: RunConfig) -> None:
    error = failure(ask(messages.DESCRIBE, site_config, node=SIMULATED, more={"lambda-1": 0.5}))
    assert "unknown key 'lambda-1'" in error


def test_a_wrong_node_configuration_is_answered_with_words(site_config: RunConfig) -> None:
    node: dict[str, Value] = {**SIMULATED, "folder": "/data"}
    assert "unknown key 'folder'" in failure(ask(messages.DESCRIBE, site_config, node=node))


def test_what_nobody_foresaw_is_an_answer_too_and_says_no_more_than_its_kind(
    site_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("patient 007")

    monkeypatch.setattr(Site, "score", fail)
    for node, kind in ((None, False), (SIMULATED, True)):
        error = failure(ask(messages.VALIDATE, site_config, node=node))
        assert "unexpected error" in error
        assert ("ZeroDivisionError" in error) is kind
        assert "007" not in error


def test_a_server_does_not_say_where_a_hospitals_files_are(
    tmp_path: Path, site_config: RunConfig
) -> None:
    elsewhere = RunConfig.from_flat(
        {
            **site_config.to_flat(),
            "data-dir": str(tmp_path / "others"),
            "base-model": str(tmp_path / "other.safetensors"),
            "cache-dir": str(tmp_path / "cache"),
        }
    )
    own = ask(messages.DESCRIBE, site_config)
    assert ask(messages.DESCRIBE, elsewhere, node=hospital(site_config)) == own
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "limits", "words"),
    [
        (messages.TRAIN, {"max_rank": 2}, "rank 3 is asked, this site allows 2"),
        (messages.TRAIN, {"max_local_epochs": 1}, "2 epochs are asked, this site allows 1"),
        (messages.TEST, {"serves": "train,validate"}, "this site does not serve test"),
        (messages.TRAIN, {"serves": "validate"}, "this site does not serve train"),
    ],
)
def test_a_site_keeps_to_its_own_limits_and_says_which(
    site_config: RunConfig,
    make_adapter: MakeAdapter,
    kind: str,
    limits: dict[str, Value],
    words: str,
) -> None:
    config = RunConfig.from_flat({**site_config.to_flat(), "local-epochs": 2})
    node = hospital(config, **limits)
    assert failure(ask(kind, config, make_adapter(RANK), node=node)) == words


@pytest.mark.parametrize("minimum", [{"min_train_patients": 3}, {"min_patients": 2}])
def test_a_site_of_too_few_patients_says_so_and_no_number(
    site_config: RunConfig, make_adapter: MakeAdapter, minimum: dict[str, Value]
) -> None:
    node = hospital(site_config, **minimum)
    for kind in (messages.DESCRIBE, messages.TRAIN, messages.VALIDATE, messages.TEST):
        adapter = None if kind == messages.DESCRIBE else make_adapter(RANK)
        assert failure(ask(kind, site_config, adapter, node=node)) == messages.TOO_FEW


def test_within_its_limits_a_site_serves(site_config: RunConfig, make_adapter: MakeAdapter) -> None:
    node = hospital(site_config, max_rank=RANK, max_local_epochs=1, serves="train")
    assert messages.ADAPTER in ask(messages.TRAIN, site_config, make_adapter(RANK), node=node)
    assert metrics(ask(messages.DESCRIBE, site_config, node=node))["max-rank"] == RANK


@pytest.mark.parametrize("trains", ["adapter", "weights"])
def test_where_the_site_says_so_it_refuses_what_is_far_from_what_it_trained_last(
    site_config: RunConfig, make_adapter: MakeAdapter, trains: str
) -> None:
    flat = {**site_config.to_flat(), "trains": trains, "merge": "pad", "rating": "penalty"}
    config, run = RunConfig.from_flat(flat), token_hex(8)
    limits: dict[str, Value] = {"max_change": 0.5, "whole_weights": True}

    def sent(kind: str, number: int, parameters: Parameters) -> RecordDict:
        record = records.tensors_to_record(parameters.tensors())
        request = messages.REQUESTS[kind](
            config, run, number, RANK if trains == "adapter" else 0, adapter=record
        )
        message = Message(request.to_record(), dst_node_id=7, message_type=kind)
        node = hospital(config, **limits)
        reply = app(message, Context(1, 7, node, RecordDict(), {}))
        return messages.unsealed(reply.content)[0]

    base = load_base(Path(config.base_model), config.model.channels()).state_dict()
    start: Parameters = make_adapter(RANK, scale=1.0) if trains == "adapter" else Weights(base)
    tensors = records.record_to_tensors(sent(messages.TRAIN, 1, start)[messages.ADAPTER])  # type: ignore[arg-type]
    own = Adapter.from_tensors(tensors, 1.0) if trains == "adapter" else Weights(tensors)
    far = {name: value.clone() for name, value in tensors.items()}
    for name, value in far.items():
        value.mul_(2 if trains == "adapter" and name.endswith("B") else 1)
        value.add_(0 if trains == "adapter" else 1.0)
    made_up = Adapter.from_tensors(far, 1.0) if trains == "adapter" else Weights(far)
    assert metrics(sent(messages.VALIDATE, 1, own))
    assert failure(sent(messages.TRAIN, 2, made_up)) == TOO_FAR
    assert messages.ADAPTER in sent(messages.TRAIN, 2, own)
    limits["max_change"] = 0.0
    assert metrics(sent(messages.VALIDATE, 2, made_up))


def test_a_site_that_is_asked_again_who_it_is_keeps_its_own_factors(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    flat = {**site_config.to_flat(), "sends": "A", "merge": "pad", "rating": "none"}
    config = RunConfig.from_flat(flat)
    ask(messages.DESCRIBE, config)
    memory = Site(GE, config).memory("a1")
    memory.save(OWN, 1, make_adapter(RANK).tensors())
    ask(messages.DESCRIBE, config)  # its node was gone for a while
    assert memory.load(OWN, 1) is not None


class HospitalGrid(FakeGrid):
    """Delivers messages to the real client app of one hospital, in this process."""

    def __init__(self, node: dict[str, Value]) -> None:
        super().__init__({})
        self.node = node
        self.replies: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        return [7]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        for message in messages:
            reply = app(message, Context(1, 7, self.node, RecordDict(), {}))
            self.replies[message.metadata.message_type] = reply
            yield reply


def test_an_adapter_is_parsed_three_times_on_its_way_and_its_bytes_are_counted_without(
    tmp_path: Path, site_config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = {"sites": 1, "min-sites": 1, "rounds": 1, "rank": RANK, "wait-s": 1}
    config = RunConfig.from_flat({**site_config.to_flat(), **flat})
    node = hospital(config, audit_log=str(tmp_path / "audit.jsonl"))
    parsed: Counter[bytes] = Counter()

    def counted(data: bytes) -> dict[str, Tensor]:
        parsed[data] += 1
        return load(data)

    monkeypatch.setattr(records, "load", counted)
    shapes = Shapes.of(skeleton(config.model.channels()))
    start = lora.initial_adapter(shapes.layers, RANK, 1.0, seed=1)
    lines: list[RoundRecord] = []
    strategy = RateMyLoRA(
        config,
        shapes=shapes,
        state=RunState(start),
        on_round=lambda _, line: lines.append(line),
    )
    grid = HospitalGrid(node)
    strategy.start(grid, strategy.arrays(), num_rounds=1)
    monkeypatch.undo()
    arrays = grid.replies[messages.TRAIN].content[messages.ADAPTER]
    assert isinstance(arrays, ArrayRecord)
    sent = arrays[records.PACKED].numpy().tobytes()
    assert 1 <= parsed[sent] <= 3  # by the audit, the guard and the server
    assert max(parsed.values()) <= 3
    tensor_bytes = sum(tensor.nbytes for tensor in records.record_to_tensors(arrays).values())
    assert lines[-1].sites["GE"]["bytes_up"] == tensor_bytes
    assert payload(grid.replies[messages.TRAIN]) == tensor_bytes
    (left,) = (
        line
        for line in read_audit(tmp_path / "audit.jsonl")
        if (line["kind"], line["direction"]) == (messages.TRAIN, "out")
    )
    assert left["payload_bytes"] == sum(array["bytes"] for array in left["arrays"]) == tensor_bytes
