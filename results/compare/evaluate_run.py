"""A process of ``compare`` that scores a run's models on every site's test patients.

``python -m results.compare.evaluate_run RUN_DIR SITES ADAPT_EPOCHS [--base]``
"""

import json
import sys
import time
from argparse import ArgumentParser
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cardiac.evaluation import Scores, evaluate
from cardiac.scoring import load_model
from cardiac.training import Trainer
from client_app.settings import SiteSettings
from client_app.site import Site
from common import lora
from common.adapter import site_file
from common.config import RunConfig
from common.errors import UserError
from common.files import finite, write_text
from common.labels import STRUCTURES
from common.seeding import derive_seed
from server_app.run_dir import RunDir
from strategies.ranks import assign_ranks

BASE, MERGED, PERSONAL, LAST_LOCAL, ADAPTED = "base", "merged", "personal", "last local", "adapted"


@dataclass(frozen=True)
class ModelFiles:
    """The files of one of a run's models."""

    model: str
    """The kind: ``base``, ``merged``, ``personal``, ``last local`` or ``adapted``."""
    origin: str
    """The site that the model belongs to; empty where it belongs to all sites."""
    weights: Path
    """File of the whole network."""
    adapter: Path | None = None
    """File of an adapter on it, if there is one."""

    def load(self, config: RunConfig) -> nn.Module:
        """Return the network with its adapter."""
        own = self.weights == config.path(config.base_model)
        expected = config if own else replace(config, base_sha256="")
        return load_model(self.weights, self.adapter, expected)


def models_of(run_dir: Path, sites: list[str], config: RunConfig) -> list[ModelFiles]:
    """Return the models that a run left: the merged model and those of its sites."""
    base, folder = config.path(config.base_model), RunDir(run_dir)
    found = []
    if folder.weights.is_file():
        found.append(ModelFiles(MERGED, "", folder.weights))
    elif folder.adapter.is_file():
        found.append(ModelFiles(MERGED, "", base, folder.adapter))
    for site in sites:
        path = folder.personal / site_file(site)
        if path.is_file():
            found.append(ModelFiles(PERSONAL, site, base, path))
    if not found:
        raise UserError(
            f"{run_dir}: found no model of the run, expected {folder.adapter.name}, "
            f"{folder.weights.name} or {folder.personal.name}/"
        )
    rounds = sorted(folder.updates.glob("round-*"))
    whole = config.method.sends == "all" and config.method.trains == "adapter"
    if rounds and whole and not config.method.folds:  # otherwise updates do not fit the base
        for site in sites:
            path = rounds[-1] / site_file(site)
            if path.is_file():
                found.append(ModelFiles(LAST_LOCAL, site, base, path))
    return found


def own_model(found: list[ModelFiles], site: str) -> ModelFiles:
    """Return the model that a site uses after the run: its personal one, or else the merged one."""
    for model in found:
        if model.model == PERSONAL and model.origin == site:
            return model
    common = [model for model in found if not model.origin]
    if not common:
        raise UserError(f"site {site}: found neither a personal nor a merged model")
    return common[0]


def adapt(model: nn.Module, site: Site, rank: int, epochs: int, config: RunConfig) -> None:
    """Fold the model's adapter, if any, and train a fresh one on the site's patients."""
    if lora.attached(model):
        adapter = lora.get_adapter(model)
        lora.detach(model)
        lora.fold(model, adapter)
    seed = derive_seed(config.seed, "adapted", site.name)
    shapes = lora.layer_shapes(model)
    lora.set_adapter(model, lora.initial_adapter(shapes, rank, config.model.alpha_per_rank, seed))
    trainer = Trainer(model, config.train, config.train.learning_rate)
    for epoch in range(epochs):
        trainer.epoch(site.slices, derive_seed(seed, epoch))


class Evaluation:
    """Scores the models of a run at all sites; ``sites`` says how many the data hold."""

    def __init__(self, run_dir: Path, sites: int) -> None:
        config = RunDir(run_dir).read_config()
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        single = replace(config.data, pool=False)  # a pooled run is scored site by site too
        self.config = replace(config, data=single)
        self.device = config.train.torch_device()
        self.sites = [
            Site(SiteSettings.from_node({"partition-id": i, "num-partitions": sites}), self.config)
            for i in range(sites)
        ]
        self.lines: list[dict[str, Any]] = []

    def run(self, found: list[ModelFiles], adapt_epochs: int) -> None:
        """Score the models; with ``adapt_epochs``, also each site's own model after adaptation."""
        for files in found:
            self._score(files.model, files.origin, files.load(self.config))
        if not adapt_epochs:
            return
        examples = {site.name: len(site.slices) for site in self.sites}
        ranks = assign_ranks(self.config.model.ranks, self.config.model.rank, examples)
        for site in self.sites:
            model = own_model(found, site.name).load(self.config)
            adapt(model, site, ranks[site.name], adapt_epochs, self.config)
            self._score(ADAPTED, site.name, model)

    def _score(self, model: str, origin: str, network: nn.Module) -> None:
        print(f"evaluating {model} {origin}".rstrip(), flush=True)
        for site in self.sites:
            # HD95 takes long, so only what the table shows
            hd95 = model in (BASE, MERGED) or (model == PERSONAL and origin == site.name)
            for case, volume in zip(site.cases["test"], site.volumes["test"], strict=True):
                scores = evaluate(network, [volume], self.device, hd95=hd95)
                where = {"site": site.name, "patient": case.patient, "frame": case.frame}
                self.lines.append({"model": model, "origin": origin, **where, **_values(scores)})


def _values(scores: Scores) -> dict[str, dict[str, float]]:
    """Return the scores of one case by metric and structure."""
    found = {"dice": dict(zip(STRUCTURES, scores.dice[0].tolist(), strict=True))}
    if scores.hd95_mm.size:
        found["hd95_mm"] = dict(zip(STRUCTURES, scores.hd95_mm[0].tolist(), strict=True))
    return found


def evaluate_run(run_dir: Path, sites: int, adapt_epochs: int, *, base: bool) -> None:
    """Score a run's models; write ``scores.jsonl`` and then ``evaluation.json`` into its folder.

    Raises
    ------
    UserError
        A file or the data cannot be used.
    """
    started = time.monotonic()
    work = Evaluation(run_dir, sites)
    names = [site.name for site in work.sites]
    own_base = ModelFiles(BASE, "", work.config.path(work.config.base_model))
    found = [own_base] if base else models_of(run_dir, names, work.config)
    work.run(found, adapt_epochs)
    lines = (json.dumps(finite(line), ensure_ascii=False) + "\n" for line in work.lines)
    write_text(run_dir / "scores.jsonl", "".join(lines))
    done = {
        "adapt_epochs": adapt_epochs,
        "sites": names,
        "models": sorted({line["model"] for line in work.lines}),
        "seconds": round(time.monotonic() - started, 1),
    }
    write_text(run_dir / "evaluation.json", json.dumps(done, indent=2, ensure_ascii=False) + "\n")


def main() -> None:
    """Run the command line; a user's mistake becomes the last line of the log."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("sites", type=int)
    parser.add_argument("adapt_epochs", type=int)
    parser.add_argument("--base", action="store_true")
    given = parser.parse_args()
    try:
        evaluate_run(given.run_dir, given.sites, given.adapt_epochs, base=given.base)
    except UserError as error:
        print(error, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
