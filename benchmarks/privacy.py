"""Measures what differential privacy costs in Dice, and what adapters tell about who trained them.

``cost`` trains three hospitals together, without noise and with more and more of it, and scores the
result on their test patients. ``attack`` trains the largest hospital alone and many times, each
time on another half of its patients, and guesses from what it sends whose turn it was: what a
coordinator can do, made easy, as nobody else's training is mixed in. The AUC of a guess is 0.5
where it tells nothing and 1 where it never errs.

The guesses on a patient, from the loss on that patient's slices without augmentation:

``loss``        the lower the loss under what the hospital sent last, the likelier a member.
``drop``        the more the loss fell from that of the base, the likelier. Yeom et al.,
                arXiv 1709.01604.
``gradient``    the more the change of round 1 points down the patient's own gradient, the likelier.
``likelihood``  LiRA on ``drop``: two normal distributions, of the trainings with and without the
                patient, decide. Carlini et al., arXiv 2112.03570, online with one variance; the
                other trainings of the same row are its shadow models.

Runs go one by one in this process. A finished run is a line in OUT, and is not run again.

    python -m benchmarks.privacy --data data/mnms --base runs/base.safetensors
    python -m benchmarks.privacy --only table
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from monai.losses import DiceCELoss
from scipy.stats import rankdata
from torch import Tensor, nn

from benchmarks.shared import parser, publish
from cardiac.augmentation import plain_tensors, training_transform
from cardiac.preprocessing import Volume
from cardiac.splits import SPLITS, Split
from cardiac.training import training_slices
from client_app.assembly import State
from client_app.privacy import epsilon
from client_app.settings import PrivacySettings, SiteSettings
from client_app.site import Site
from common import lora
from common.config import RunConfig
from common.messages import Validation
from common.model import skeleton
from common.options import Value, read_toml
from common.weights import Parameters, Weights
from strategies.round import Round
from strategies.rules import rule_of
from strategies.state import RunState

SITES = 3
DELTA = 0.01
"""Below 1 / number of training patients, 48 at the largest of the three hospitals."""
ALONE: dict[str, Value] = {"rating": "none"}
WEIGHTS: dict[str, Value] = {**ALONE, "trains": "weights", "merge": "pad", "learning-rate": 0.001}
LITTLE: dict[str, Value] = {
    "rank": 4, "factors": "B", "merge": "pad", "learning-rate": 0.01, "batch-size": 8,
}  # fmt: skip
"""Keys for training with noise, chosen on validation patients: fewer numbers to add noise to."""
CLIP = 0.25
"""About the median norm of a patient's gradient, by ``LITTLE``; it is 1.5 for all weights."""
GUESSES = ("loss", "drop", "gradient")
Found = dict[str, Any]
Slices = Sequence[dict[str, Tensor]]
Numbers = np.ndarray


@dataclass(frozen=True)
class Row:
    """A way to train: keys of the run and the noise of every hospital."""

    name: str
    keys: Mapping[str, Value] = field(default_factory=dict)
    noise: float = 0.0
    clip: float = 1.0
    rate: float = 0.25

    def privacy(self) -> PrivacySettings:
        """Return the settings of every hospital."""
        return PrivacySettings(self.noise, self.clip, self.rate, DELTA, 1e9)


COST = (
    Row("adapters of rank 16"),
    Row("B of rank 4", LITTLE),
    *(Row(f"B of rank 4, σ {noise:g}", LITTLE, noise, CLIP) for noise in (0.5, 1.0, 2.0)),
)
ATTACK = (
    Row("adapters of rank 16", ALONE),
    Row("all weights", WEIGHTS),
    Row("B of rank 4", {**ALONE, **LITTLE}),
    Row("B of rank 4, σ 1", {**ALONE, **LITTLE}, 1.0, CLIP),
    Row("all weights, σ 1", WEIGHTS, 1.0, 1.5),
)


@dataclass
class Bench:
    """The hospitals, and what is the same in every training of them."""

    args: argparse.Namespace
    fixed: dict[str, Any] = field(default_factory=dict)

    def config(self, row: Row, seed: int, rounds: int) -> RunConfig:
        """Return the configuration of a run."""
        args = self.args
        keys: dict[str, Value] = {
            "data-dir": str(args.data),
            "base-model": str(args.base),
            "cache-dir": str(args.cache_dir),
            "split-by": args.split_by,
            "rounds": rounds,
            "ranks": "equal",
            "device": "cpu",
            "seed": seed,
            "split-seed": seed,
        }
        return RunConfig.from_flat({**read_toml(args.config), **keys, **row.keys}, "benchmark")

    def epsilon(self, row: Row, config: RunConfig) -> float | None:
        """Return what a hospital spends in a whole run; None without noise."""
        privacy = row.privacy()
        steps = privacy.steps(config.train.local_epochs) * config.federation.rounds
        return epsilon([(row.noise, row.rate, steps)], DELTA) if privacy.on else None

    def cost(self, row: Row, seed: int) -> Found:
        """Train all hospitals together; return the Dice, and what gives training patients away."""
        config = self.config(row, seed, self.args.rounds)
        sites = [open_site(row, config, number) for number in range(SITES)]
        *_, last = federate(sites, config)
        if (key := f"base {seed}") not in self.fixed:
            self.fixed[key] = dice(sites, None)
        result = dice(sites, last.state.parameters)
        return {"epsilon": self.epsilon(row, config), "base": self.fixed[key], "result": result}

    def attack(self, row: Row, trial: int) -> Found:
        """Train the largest hospital on half of its patients; return what is guessed of all.

        Trials 2k and 2k + 1 have the two halves of one division.
        """
        config = self.config(row, 0, self.args.attack_rounds)
        if "site" not in self.fixed:
            sites = (open_site(row, config, number) for number in range(SITES))
            largest = max(sites, key=lambda site: len(site.by_patient))
            whole = [part for split in SPLITS for part in by_patient(largest, split).values()]
            base = losses(largest, None, whole)
            self.fixed |= {"site": largest, "patients": whole, "base": base}
        patients: list[Slices] = self.fixed["patients"]
        order = np.random.default_rng(trial // 2).permutation(len(patients))
        member = np.isin(np.arange(len(patients)), order[trial % 2 :: 2])
        site = copy(self.fixed["site"])
        site.config, site.settings = config, replace(site.settings, privacy=row.privacy())
        site.by_patient = [slices for own, slices in zip(member, patients, strict=True) if own]
        site.slices = [item for slices in site.by_patient for item in slices]
        downhill: list[float] = []
        for last in federate([site], config):
            downhill = downhill or self._downhill(row, site, last.updates[site.name].parameters)
        after = losses(site, last.updates[site.name].parameters, patients)
        return {
            "epsilon": self.epsilon(row, config),
            "member": member.tolist(),
            "loss": (-after).tolist(),
            "drop": (self.fixed["base"] - after).tolist(),
            "gradient": downhill,
        }

    def _downhill(self, row: Row, site: Site, update: Parameters) -> list[float]:
        """Return the cosine of the change of round 1 with each patient's way down."""
        start = initial(site.config).parameters
        key = f"gradients {sorted(row.keys)}"
        if key not in self.fixed:
            model = site.network(State(start))
            trained = trainable(model, start)
            self.fixed[key] = [
                -flat(torch.autograd.grad(loss_of(site, model, slices), trained))
                for slices in self.fixed["patients"]
            ]
        before, after = (flat(trainable(site.network(State(p)), p)) for p in (start, update))
        change = (after - before).detach()
        return [float(torch.cosine_similarity(change, way, 0)) for way in self.fixed[key]]


def dice(sites: Sequence[Site], parameters: Parameters | None) -> dict[Split, list[float]]:
    """Return the mean Dice of every hospital by split."""
    state = State(parameters)
    return {split: [site.score(state, split).mean_dice for site in sites] for split in SPLITS[1:]}


def open_site(row: Row, config: RunConfig, number: int) -> Site:
    """Return a hospital that trains as the row says."""
    settings = SiteSettings(partition=number, partitions=SITES, privacy=row.privacy())
    return Site(settings, config)


def initial(config: RunConfig) -> RunState:
    """Return a run's state before round 1."""
    return RunState.initial(config, lora.layer_shapes(skeleton(config.model.channels())))


def federate(sites: Sequence[Site], config: RunConfig) -> Iterator[Round]:
    """Run the rounds of a federation in this process; yield each when it is done."""
    state, validates = initial(config), config.method.validates
    rule = rule_of(config, state.rating)
    if validates:
        state.previous = {site.name: site.score(State(), "val").mean_dice for site in sites}
    for number in range(1, config.federation.rounds + 1):
        current = Round(number, config, state, rule)
        start = State(state.parameters)
        current.screen({site.name: site.train(start, number) for site in sites})
        merged = State(current.merge().parameters)
        scores = {site.name: site.score(merged, "val") for site in sites if validates}
        current.settle({name: Validation(s.mean_dice, s.cases) for name, s in scores.items()})
        yield current


def by_patient(site: Site, split: Split) -> dict[str, Slices]:
    """Return the slices of a split's patients."""
    found: dict[str, list[Volume]] = {}
    for case, volume in zip(site.cases[split], site.volumes[split], strict=True):
        found.setdefault(case.patient, []).append(volume)
    return {patient: training_slices(volumes) for patient, volumes in sorted(found.items())}


def trainable(model: nn.Module, parameters: Parameters) -> list[Tensor]:
    """Return all weights of a network, or the factors of its adapter."""
    if isinstance(parameters, Weights):
        model.requires_grad_(True)
    return [p for p in model.parameters() if p.requires_grad]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors as one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def loss_of(site: Site, model: nn.Module, slices: Slices) -> Tensor:
    """Return the training loss on a patient's slices, cropped and not augmented."""
    crop = training_transform(site.config.train.image_size, False, 0)
    with plain_tensors():
        batch = [crop(item) for item in slices]
    image, label = (torch.stack([item[key] for item in batch]) for key in ("image", "label"))
    found: Tensor = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)(model(image), label)
    return found


def losses(site: Site, parameters: Parameters | None, patients: Sequence[Slices]) -> Numbers:
    """Return the loss on each patient under the base, an adapter or weights."""
    model = site.network(State(parameters))
    with torch.inference_mode():
        return np.array([float(loss_of(site, model, slices)) for slices in patients])


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """Return the chance that a member's number is higher than another patient's."""
    ranks = rankdata([*members, *others])[: len(members)].sum()
    return float((ranks / len(members) - (len(members) + 1) / 2) / len(others))


def likelihood(drop: Numbers, member: Numbers) -> Numbers:
    """Return LiRA's log likelihood ratio, up to a factor, by trial and patient: (trials, patients).

    A trial and the one with the other half are left out of the means that they are held against,
    so that both means are of as many trials. ``trials`` is even and at least 4.
    """
    found = np.zeros_like(drop)
    for trial in range(len(drop)):
        others = np.arange(len(drop)) // 2 != trial // 2
        inside, outside = (
            np.nanmean(np.where(member == side, drop, np.nan)[others], axis=0)
            for side in (True, False)
        )
        found[trial] = (drop[trial] - outside) ** 2 - (drop[trial] - inside) ** 2
    return found


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Return mean ± standard deviation."""
    more = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{more}" if values else "–"


def tables(lines: Sequence[Found], args: argparse.Namespace) -> None:
    """Print what has been measured so far."""
    by_row: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for line in lines:
        by_row[line["what"], line["row"]].append(line)
    costs, guesses = [], []
    for (what, name), found in by_row.items():
        spent = found[0]["epsilon"]
        first = [name, str(len(found)), "–" if spent is None else f"{spent:.1f}"]
        if what == "cost":
            gains = (
                [fmean(f["result"][split]) - fmean(f["base"][split]) for f in found]
                for split in SPLITS[1:]
            )
            tested = [fmean(f["result"]["test"]) for f in found]
            costs.append([*first, *map(spread, gains), spread(tested)])
        else:
            member = np.array([f["member"] for f in found])
            numbers = {kind: np.array([f[kind] for f in found]) for kind in GUESSES}
            if (even := len(found) // 2 * 2) >= 4:
                numbers["likelihood"] = likelihood(numbers["drop"][:even], member[:even])
            guesses.append([*first])
            for kind in (*GUESSES, "likelihood"):
                pairs = zip(numbers.get(kind, ()), member, strict=False)
                guesses[-1].append(spread([auc(row[m], row[~m]) for row, m in pairs]))
    result = {"lines": list(lines)}
    head = ("row", "runs", "ε", "gain, val", "gain, test", "test Dice")
    publish(f"Three hospitals, δ = {DELTA}: mean Dice", head, costs, result, args.json)
    guess_head = ("row", "runs", "ε", *GUESSES, "likelihood")
    publish("AUC of guessing who trained", guess_head, guesses, result, None)


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, default=Path("data/mnms"))
    options.add_argument("--split-by", default="CENTRE")
    options.add_argument("--base", type=Path, default=Path("runs/base.safetensors"))
    options.add_argument("--config", type=Path, default=Path("configs/small.toml"))
    options.add_argument("--cache-dir", type=Path, default=Path("runs/cache"))
    options.add_argument("--out", type=Path, default=Path("runs/privacy.jsonl"))
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seeds", type=int, nargs="*", default=[18, 154, 166])
    options.add_argument("--attack-rounds", type=int, default=4)
    options.add_argument("--trials", type=int, default=6)
    options.add_argument("--only", nargs="*", help="rows, by name")
    args = options.parse_args()
    torch.set_num_threads(1)
    lines = list(
        map(json.loads, args.out.read_text("utf-8").splitlines() if args.out.exists() else [])
    )
    done = {(line["what"], line["row"], line["number"]) for line in lines}
    seeds, trials = args.seeds, args.trials
    work = [(n / len(seeds), "cost", row, seed) for n, seed in enumerate(seeds) for row in COST]
    turn = (((trial // 2) * 2 + 1.5) / trials for trial in range(trials))  # two halves together
    work += [(at, "attack", row, trial) for trial, at in enumerate(turn) for row in ATTACK]
    work.sort(key=lambda item: item[0])  # half of the time gives half of everything
    bench = Bench(args)
    for _, what, row, number in work:
        if (what, row.name, number) in done or (
            args.only is not None and row.name not in args.only
        ):
            continue
        started = time.process_time()
        found = bench.cost(row, number) if what == "cost" else bench.attack(row, number)
        cpu_s = round(time.process_time() - started, 1)
        lines.append({"what": what, "row": row.name, "number": number, **found, "cpu_s": cpu_s})
        with args.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(what, row.name, number, cpu_s, flush=True)
    tables(lines, args)


if __name__ == "__main__":
    main()
