"""Every method of the registry as a whole federation, sites and server in one process.

What every site starts a round from is held against a dense computation, written here by hand,
from what the sites ended the round before with; and every message against the bytes it should
have.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Message, RecordDict
from torch import Tensor

from cardiac.evaluation import Scores
from cardiac.splits import Split
from client_app.app import app
from client_app.assembly import State
from client_app.memory import memory_folder
from client_app.settings import SiteSettings
from client_app.site import POOLED, Site, open_site
from common import lora
from common.adapter import Adapter, load_adapter
from common.config import RunConfig
from common.messages import Request, Train, Update, read_request
from common.model import build_unet, load_base, skeleton
from common.options import Value
from common.weights import Weights
from server_app.run import run
from strategies.methods import METHODS
from tests.conftest import SITE_FEATURES, adapter_of
from tests.strategies.fakes import FakeGrid

ROUNDS = 3
SITES = ("GE", "Philips", "Siemens")
SHAPES = lora.layer_shapes(skeleton(SITE_FEATURES))
FLOAT = 4

pytestmark = pytest.mark.slow


Before = Callable[[Request, int], None]
"""Called with the request and the node before a message is delivered."""


class LocalGrid(FakeGrid):
    """Delivers messages to the real client app, in this process."""

    def __init__(self, count: int, before: Before | None = None) -> None:
        super().__init__({})
        self.count = count
        self.before = before

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes, from 1."""
        return list(range(1, self.count + 1))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Let the app answer."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            config: dict[str, Value] = {"partition-id": node - 1, "num-partitions": self.count}
            if self.before is not None:
                self.before(read_request(message), node)
            replies.append(app(message, Context(1, node, config, RecordDict(), {})))
        return replies


@dataclass
class Run:
    """What happened in a run: by (round, site), and its files."""

    config: RunConfig
    folder: Path
    starts: dict[tuple[int, str], State] = field(default_factory=dict)
    ends: dict[tuple[int, str], Update] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """Names of the sites."""
        return sorted({site for _, site in self.starts})

    def entry(self, number: int, site: str, key: str) -> Any:
        """Return a fact of the history."""
        return self.history_of(number)["sites"][site][key]

    def history_of(self, number: int) -> dict[str, Any]:
        """Return the line of a round."""
        return next(line for line in self.history if line["round"] == number)

    def by_examples(self, number: int) -> dict[str, float]:
        """Return n_c / Σ n."""
        counts = {site: self.ends[number, site].examples for site in self.sites}
        return {site: n / sum(counts.values()) for site, n in counts.items()}

    def adapter(self, number: int, site: str) -> Adapter:
        """Return what a site ended a round with."""
        return adapter_of(self.ends[number, site].parameters)

    def start(self, number: int, site: str) -> Adapter:
        """Return what a site started a round from."""
        parameters = self.starts[number, site].parameters
        assert parameters is not None
        return adapter_of(parameters)


def mean(run: Run, number: int, mass: Mapping[str, float], half: str, layer: str) -> Tensor:
    """Return Σ m_c of one half, of zero-padded factors, in double precision."""
    rank = max(run.adapter(number, site).rank for site in run.sites)
    total = None
    for site in run.sites:
        value = getattr(run.adapter(number, site).layers[layer], half).double()
        missing = rank - run.adapter(number, site).rank
        pad = (0, 0, 0, missing) if half == "A" else (0, missing)
        part = mass[site] * torch.nn.functional.pad(value, pad)
        total = part if total is None else total + part
    assert total is not None
    return total


def product(adapter: Adapter, layer: str) -> Tensor:
    """Return s·BA in double precision."""
    a, b = adapter.layers[layer]
    return adapter.scale * (b.double() @ a.double())


def folded(state: State, layer: str) -> Tensor:
    """Return what is folded into the base."""
    return torch.zeros(SHAPES[layer]) if state.folded is None else state.folded[layer]


def cut(dense: Tensor, rank: int) -> Tensor:
    """Return the best approximation of a rank, by numpy."""
    u, s, vt = np.linalg.svd(dense.numpy(), full_matrices=False)
    return torch.from_numpy((u[:, :rank] * s[:rank]) @ vt[:rank])


def near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-4, atol=1e-6)


def sums(run: Run, number: int, mass: Mapping[str, float], layer: str) -> Tensor:
    """Return Σ m_c s·B_c A_c."""
    total = torch.zeros(SHAPES[layer], dtype=torch.float64)
    for site in run.sites:
        total += mass[site] * product(run.adapter(number, site), layer)
    return total


def check_factor_mean(run: Run, number: int, mass: Mapping[str, float]) -> None:
    for site in run.sites:
        start = run.start(number + 1, site)
        for layer in SHAPES:
            a, b = start.layers[layer]
            near(a, mean(run, number, mass, "A", layer)[: start.rank])
            near(b, mean(run, number, mass, "B", layer)[:, : start.rank])


def check_svd(run: Run, number: int, mass: Mapping[str, float]) -> None:
    for site in run.sites:
        start = run.start(number + 1, site)
        for layer in SHAPES:
            near(product(start, layer), cut(sums(run, number, mass, layer), start.rank))


def check_fold(run: Run, number: int, mass: Mapping[str, float]) -> None:
    for site in run.sites:
        before, after = run.starts[number, site], run.starts[number + 1, site]
        assert not adapter_of(after.parameters).layers["final_conv"].B.any()  # type: ignore[arg-type]
        for layer in SHAPES:
            near(folded(after, layer), folded(before, layer) + sums(run, number, mass, layer))


def fedit(run: Run, number: int) -> None:
    check_factor_mean(run, number, run.by_examples(number))


def ffa(run: Run, number: int) -> None:
    mass = run.by_examples(number)
    for site in run.sites:
        start, first = run.start(number + 1, site), run.start(1, site)
        for layer in SHAPES:
            assert torch.equal(start.layers[layer].A, first.layers[layer].A)
            assert torch.equal(run.adapter(number, site).layers[layer].A, first.layers[layer].A)
            near(product(start, layer), sums(run, number, mass, layer))  # exact with A fixed


def hetlora(run: Run, number: int) -> None:
    norms = {
        site: sum(
            float(product(run.adapter(number, site), layer).square().sum()) for layer in SHAPES
        )
        ** 0.5
        for site in run.sites
    }
    mass = {site: norm / sum(norms.values()) for site, norm in norms.items()}
    assert len({run.adapter(number, site).rank for site in run.sites}) > 1
    check_factor_mean(run, number, mass)


def flexlora(run: Run, number: int) -> None:
    check_svd(run, number, run.by_examples(number))


def flora(run: Run, number: int) -> None:
    check_fold(run, number, run.by_examples(number))


def fedsa(run: Run, number: int) -> None:
    mass = run.by_examples(number)
    for site in run.sites:
        for layer in SHAPES:
            a, b = run.start(number + 1, site).layers[layer]
            near(a, mean(run, number, mass, "A", layer))
            assert torch.equal(b, run.adapter(number, site).layers[layer].B)


def rolora(run: Run, number: int) -> None:
    mass = run.by_examples(number)
    trained, still = ("B", "A") if number % 2 else ("A", "B")
    for site in run.sites:
        start, after = run.start(number, site), run.start(number + 1, site)
        own = run.adapter(number, site)
        for layer in SHAPES:
            near(getattr(after.layers[layer], trained), mean(run, number, mass, trained, layer))
            for other in (own, after):
                assert torch.equal(
                    getattr(other.layers[layer], still), getattr(start.layers[layer], still)
                )


def fedex(run: Run, number: int) -> None:
    mass = run.by_examples(number)
    check_factor_mean(run, number, mass)
    for site in run.sites:
        before, after = run.starts[number, site], run.starts[number + 1, site]
        for layer in SHAPES:
            whole = folded(after, layer) + product(run.start(number + 1, site), layer)
            near(whole, folded(before, layer) + sums(run, number, mass, layer))


def feddg(run: Run, number: int) -> None:
    shares = {site: run.entry(number, site, "share") for site in run.sites}
    assert sum(shares.values()) == pytest.approx(1)
    check_svd(run, number, shares)
    if number > 1:
        gap = {
            s: run.entry(number - 1, s, "local") - run.entry(number, s, "start") for s in run.sites
        }
        before = {site: run.entry(number - 1, site, "share") for site in run.sites}
        worst = max(run.sites, key=lambda site: gap[site])
        assert shares[worst] >= before[worst]


def penalised(run: Run, number: int) -> dict[str, float]:
    """Return w_t by Eq. 1, from the reported Dice alone."""
    now = {site: run.entry(number, site, "validation") for site in run.sites}
    was = {site: run.history_of(number - 1)["sites"][site]["validation"] for site in run.sites}
    lam = 0.2 * 0.95 ** (number - 1)
    lost = any(now[site] < was[site] for site in run.sites)
    return {site: 1 - lam if now[site] > was[site] and lost else 1.0 for site in run.sites}


def rated(run: Run, number: int) -> dict[str, float]:
    weights = penalised(run, number)
    return {site: w / sum(weights.values()) for site, w in weights.items()}


def ours(run: Run, number: int) -> None:
    check_svd(run, number, rated(run, number))


def ours_pad(run: Run, number: int) -> None:
    check_factor_mean(run, number, rated(run, number))


def ours_fold(run: Run, number: int) -> None:
    weights, share = penalised(run, number), run.by_examples(number)
    check_fold(run, number, {site: weights[site] * share[site] for site in run.sites})


def local(run: Run, number: int) -> None:
    for site in run.sites:
        start, own = run.start(number + 1, site), run.adapter(number, site)
        assert all(torch.equal(v, own.tensors()[k]) for k, v in start.tensors().items())


def centralised(run: Run, number: int) -> None:
    assert run.sites == [POOLED]
    near_itself = run.start(number + 1, POOLED), run.adapter(number, POOLED)
    for layer in SHAPES:
        near(*(product(adapter, layer) for adapter in near_itself))
    alone = sum(len(Site(_settings(n), changed(run.config, pool=False)).slices) for n in range(3))
    assert run.ends[number, POOLED].examples == alone


def fedavg(run: Run, number: int) -> None:
    mass = run.by_examples(number)
    for site in run.sites:
        start = run.starts[number + 1, site].parameters
        assert isinstance(start, Weights)
        for name, value in start.values.items():
            total = torch.zeros_like(value, dtype=torch.float64)
            for other in run.sites:
                trained = run.ends[number, other].parameters
                assert isinstance(trained, Weights)
                total += mass[other] * trained.values[name].double()
            near(value, total)


EXPECTED: dict[str, Callable[[Run, int], None]] = {
    "local": local, "centralised": centralised, "fedavg": fedavg, "fedprox": fedavg,
    "fedit": fedit, "ffa-lora": ffa, "hetlora": hetlora, "flexlora": flexlora, "flora": flora,
    "fedsa-lora": fedsa, "rolora": rolora, "fedex-lora": fedex, "feddg-ga": feddg,
    "rate-my-lora": ours, "rate-my-lora-pad": ours_pad, "rate-my-lora-fold": ours_fold,
}  # fmt: skip


@pytest.fixture(scope="module")
def federate(site_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """Return what runs a method, once each."""
    folder = tmp_path_factory.mktemp("methods")

    @cache
    def federated(name: str, before: Before | None = None, **more: Value) -> Run:
        kind = "-".join(str(value) for value in more.values()) or "plain"
        flat: dict[str, Value] = {
            "data-dir": str(site_data / "mnms2"), "base-model": str(site_data / "base.safetensors"),
            "cache-dir": str(folder / "cache"), "run-dir": str(folder / name / kind),
            "features": ",".join(map(str, SITE_FEATURES)), "rank": 4, "image-size": 32,
            "spacing-mm": 5.0, "rounds": ROUNDS, "learning-rate": 0.01, "wait-s": 1,
            **METHODS[name].keys, **{key.replace("_", "-"): v for key, v in more.items()},
        }  # fmt: skip
        config = RunConfig.from_flat(flat)
        done = Run(config, Path(config.run_dir))
        original = Site.train

        def train(site: Site, state: State, server_round: int) -> Update:
            result = original(site, state, server_round)
            done.starts[server_round, site.name] = state
            done.ends[server_round, site.name] = result
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Site, "train", train)
            patch.setattr("server_app.run.plot_rounds", lambda *_: None)  # half of the time
            patch.setattr("cardiac.evaluation._hd95_mm", lambda *_: np.zeros(3))  # of the rest
            run(LocalGrid(config.federation.sites, before), config)
        open_site.cache_clear()
        lines = (done.folder / "history.jsonl").read_text().splitlines()
        done.history = [json.loads(line) for line in lines]
        done.summary = json.loads((done.folder / "summary.json").read_text())
        return done

    return federated


def test_every_method_has_its_check() -> None:
    assert set(EXPECTED) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_sites_go_on_from_what_the_equation_says(federate: Callable[..., Run], name: str) -> None:
    run = federate(name)
    assert all(line["refused"] == [] for line in run.history)
    for number in range(1, ROUNDS):
        EXPECTED[name](run, number)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_changes_what_it_trains(federate: Callable[..., Run], name: str) -> None:
    run = federate(name)
    for site, scores in run.summary["sites"].items():
        assert scores["test"]["dice"] != scores["base"]["dice"], site
    assert set(run.summary["sites"]) == ({POOLED} if name == "centralised" else set(SITES))


def factors(rank: int, halves: str = "AB") -> int:
    """Return the bytes of the factors of a rank."""
    per_rank = sum(
        (fan_in if "A" in halves else 0) + (c_out if "B" in halves else 0)
        for c_out, fan_in in SHAPES.values()
    )
    return FLOAT * rank * per_rank


WEIGHTS = FLOAT * sum(v.numel() for v in build_unet(SITE_FEATURES).state_dict().values())


def expected_traffic(name: str, run: Run, number: int, site: str) -> tuple[int, int]:
    """Return the bytes up and down of a site in a round that is not the first."""
    rank = run.entry(number, site, "rank")
    all_ranks = sum(run.entry(number, other, "rank") for other in run.sites)
    trained_now, trained_before = ("B", "A") if number % 2 else ("A", "B")
    special: dict[str, tuple[int, int]] = {
        "local": (0, 0),
        "fedavg": (WEIGHTS, WEIGHTS),
        "fedprox": (WEIGHTS, WEIGHTS),
        "ffa-lora": (factors(rank, "B"), factors(rank, "B")),
        "fedsa-lora": (factors(rank, "A"), factors(rank, "A")),
        "rolora": (factors(rank, trained_now), factors(rank, trained_before)),
        "flora": (factors(rank), factors(all_ranks)),
        "fedex-lora": (factors(rank), factors(rank) + factors(all_ranks - rank)),
        "rate-my-lora": (factors(rank), 2 * factors(rank)),
        "rate-my-lora-pad": (factors(rank), 2 * factors(rank)),
        "rate-my-lora-fold": (factors(rank), 2 * factors(all_ranks)),
    }
    return special.get(name, (factors(rank), factors(rank)))


@pytest.mark.parametrize("name", METHODS)
def test_the_traffic_is_what_the_method_needs(federate: Callable[..., Run], name: str) -> None:
    run = federate(name)
    for site in run.sites:
        entry = run.history_of(ROUNDS)["sites"][site]
        found = entry.get("bytes_up", 0), entry.get("bytes_down", 0)
        assert found == expected_traffic(name, run, ROUNDS, site)


@pytest.mark.parametrize("name", ["flora", "fedex-lora", "rate-my-lora-fold"])
def test_the_result_of_a_folding_method_is_one_adapter(
    federate: Callable[..., Run], name: str
) -> None:
    run = federate(name)
    adapter, _ = load_adapter(run.folder / "adapter.safetensors")
    model = load_base(run.config.path(run.config.base_model), SITE_FEATURES)
    lora.set_adapter(model, adapter)
    site = Site(_settings(0), run.config)
    assert site.score(State(adapter), "test").mean_dice == pytest.approx(
        run.summary["sites"]["GE"]["test"]["dice"]["mean"], abs=1e-3
    )


@pytest.mark.parametrize("name", ["local", "fedsa-lora"])
def test_personal_models_are_left_in_a_simulation(federate: Callable[..., Run], name: str) -> None:
    run = federate(name)
    assert not (run.folder / "adapter.safetensors").exists()
    for partition, site in enumerate(SITES):
        adapter, _ = load_adapter(run.folder / "personal" / f"{site}.safetensors")
        scored = Site(_settings(partition), run.config).score(State(adapter), "test")
        assert round(scored.mean_dice, 3) == run.summary["sites"][site]["test"]["dice"]["mean"]


def test_weights_are_left_as_a_base_file(federate: Callable[..., Run]) -> None:
    run = federate("fedavg")
    model = load_base(run.folder / "weights.safetensors", SITE_FEATURES)
    site = Site(_settings(0), run.config)
    scored = site.score(State(Weights(model.state_dict())), "test")
    assert round(scored.mean_dice, 3) == run.summary["sites"]["GE"]["test"]["dice"]["mean"]


def test_fedprox_stays_nearer_to_its_start(federate: Callable[..., Run]) -> None:
    def moved(run: Run) -> float:
        base = load_base(run.config.path(run.config.base_model), SITE_FEATURES).state_dict()
        trained = run.ends[1, "GE"].parameters.tensors()
        return sum(float((trained[k] - base[k]).square().sum()) for k in base)

    assert moved(federate("fedprox", proximal=1.0)) < moved(federate("fedavg"))


@pytest.mark.parametrize("rating", ["search", "recipient"])
def test_sites_rate_more_than_one_merge(federate: Callable[..., Run], rating: str) -> None:
    run = federate("rate-my-lora", rating=rating, ranks="equal")
    adapter = factors(4)
    for number in range(1, ROUNDS + 1):
        for site in SITES:
            assert run.entry(number, site, "bytes_down") == adapter * (1 + 1 + len(SITES))
    starts = [run.start(2, site).tensors() for site in SITES]
    alike = all(torch.equal(value, starts[1][key]) for key, value in starts[0].items())
    assert alike == (rating == "search")  # every recipient has a merge of its own


@pytest.mark.parametrize(
    ("schedule", "expected"), [("held", [0.5, 0.5, 0.475]), ("spread", [0.25, 0.25, 0.25])]
)
def test_a_schedule_moves_lambda(
    federate: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    schedule: str,
    expected: list[float],
) -> None:
    # In round 1 GE loses while Philips gains, and the spread is halved; then nothing changes.
    dice = {"GE": (0.6, 0.55), "Philips": (0.4, 0.45), "Siemens": (0.5, 0.5)}
    score, now = Site.score, [0]

    def scripted(site: Site, state: State, split: Split, *, hd95: bool = False) -> Scores:
        found = score(site, state, split, hd95=hd95)
        return replace(found, dice=np.full_like(found.dice, dice[site.name][now[0] > 0]))

    def note(request: Request, node: int) -> None:
        now[0] = request.server_round

    monkeypatch.setattr(Site, "score", scripted)
    run = federate("rate-my-lora", note, schedule=schedule, lambda_0=0.5)
    lambdas = [run.history_of(number)["lambda"] for number in range(1, ROUNDS + 1)]
    assert lambdas == pytest.approx(expected)


def keeps(name: str) -> bool:
    """Return whether sites keep something of their own from round to round."""
    method = RunConfig.from_flat(dict(METHODS[name].keys)).method
    return method.keeps_own or method.folds


KEEPING = [name for name in METHODS if keeps(name)]


def test_these_methods_keep_something() -> None:
    folding, own = {"flora", "fedex-lora", "rate-my-lora-fold"}, {"local", "fedsa-lora", "rolora"}
    assert set(KEEPING) == folding | own


@pytest.mark.parametrize("name", KEEPING)
def test_a_site_that_forgot_says_so_loses_one_round_and_goes_on_like_a_newcomer(
    federate: Callable[..., Run], name: str
) -> None:
    def forget(request: Request, node: int) -> None:
        if isinstance(request, Train) and (request.server_round, node) == (3, 1):
            shutil.rmtree(memory_folder(request.config, request.run_id, "GE"))

    run = federate(name, forget, run_dir=str(federate(name).folder.with_name("forgot")), rounds=4)
    refused = [line for line in run.history_of(3)["refused"] if line["phase"] == "train"]
    assert [line["site"] for line in refused] == ["GE"]
    assert refused[0]["reason"].startswith("this site does not hold")
    assert run.history_of(4)["refused"] == []
    assert [run.entry(3, site, "held") for site in SITES] == [2, 2, 2]
    assert [run.entry(4, site, "held") for site in SITES] == [0, 3, 3]
    mine, other = run.start(4, "GE"), run.start(4, "Siemens")
    for layer in SHAPES:
        near(folded(run.starts[4, "GE"], layer), folded(run.starts[4, "Siemens"], layer))
        if name in ("rolora", "fedsa-lora"):
            assert torch.equal(mine.layers[layer].A, other.layers[layer].A)
        if name == "rolora":
            assert torch.equal(mine.layers[layer].B, other.layers[layer].B)
        if name in ("local", "fedsa-lora"):  # nobody else has it
            assert not mine.layers[layer].B.any()
            assert other.layers[layer].B.any()


def resume(federate: Callable[..., Run], name: str, kind: str, **changes: Value) -> Run:
    """Return a run that was halted a round early and goes on with other values of some keys."""
    folder = federate(name).folder.with_name(kind)
    federate(name, run_dir=str(folder), rounds=ROUNDS - 1)
    moved = folder.with_name(f"{kind}-moved")
    shutil.copytree(folder, moved)
    return federate(name, run_dir=str(moved), resume=True, **changes)


@pytest.mark.parametrize("name", [*KEEPING, "feddg-ga"])
def test_a_run_that_is_resumed_elsewhere_still_finds_what_sites_keep(
    federate: Callable[..., Run], site_data: Path, tmp_path: Path, name: str
) -> None:
    shutil.copytree(site_data / "mnms2", tmp_path / "mnms2")
    shutil.copy(site_data / "base.safetensors", tmp_path / "base.safetensors")
    changes: dict[str, Value] = {
        "data_dir": str(tmp_path / "mnms2"), "base_model": str(tmp_path / "base.safetensors"),
        "threads": 1, "device": "cpu", "keep_updates": "all", "tensorboard": True,
        "local_validation": True, "profile": "other",
    }  # fmt: skip
    resumed, whole = resume(federate, name, "elsewhere", **changes), federate(name)
    assert all(line["refused"] == [] for line in resumed.history)
    assert resumed.history_of(ROUNDS)["sites"].keys() == whole.history_of(ROUNDS)["sites"].keys()
    for site in SITES:
        if name in KEEPING:
            assert resumed.entry(ROUNDS, site, "held") == ROUNDS - 1
        assert resumed.entry(ROUNDS, site, "bytes_down") == whole.entry(ROUNDS, site, "bytes_down")
        for key, value in whole.ends[ROUNDS, site].parameters.tensors().items():
            assert torch.equal(resumed.ends[ROUNDS, site].parameters.tensors()[key], value)
    assert resumed.summary["sites"] == whole.summary["sites"]


def test_a_resumed_run_whose_cache_is_gone_says_so(
    federate: Callable[..., Run], tmp_path: Path
) -> None:
    def restore(request: Request, node: int) -> None:
        """Give two of the three sites back what they kept, as the run needs two."""
        if isinstance(request, Train) and node != 1:
            old = memory_folder(federate("fedsa-lora").config, request.run_id, SITES[node - 1])
            new = memory_folder(request.config, request.run_id, SITES[node - 1])
            shutil.copytree(old, new, dirs_exist_ok=True)

    folder = str(federate("fedsa-lora").folder.with_name("no-cache"))
    federate("fedsa-lora", run_dir=folder, rounds=ROUNDS - 1)
    resumed = federate(
        "fedsa-lora", restore, run_dir=folder, resume=True, cache_dir=str(tmp_path / "cache")
    )
    (refused,) = resumed.history_of(ROUNDS)["refused"]
    assert (refused["site"], refused["phase"]) == ("GE", "train")
    assert refused["reason"] == f"this site does not hold its factors of round {ROUNDS - 1}"


def _settings(partition: int) -> SiteSettings:
    return SiteSettings(partition=partition, partitions=len(SITES))


def changed(config: RunConfig, **keys: Value) -> RunConfig:
    """Return the configuration with other values."""
    return RunConfig.from_flat({**config.to_flat(), **keys})
