"""A site of a run: its cases, its base model, and how it trains and scores."""

import time
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import BasicUNet

from cardiac.datasets import Case, group_by_site, read_cases
from cardiac.evaluation import Scores, evaluate, present
from cardiac.preprocessing import Volume, load_volume, volumes
from cardiac.private_training import PrivateTrainer
from cardiac.splits import (
    SPLITS,
    Cohorts,
    Split,
    TooFewPatientsError,
    restrict,
    split_cases,
)
from cardiac.training import Trainer, training_slices
from client_app import demo, prepared
from client_app.assembly import State
from client_app.memory import Memory, memory_folder
from client_app.privacy import PrivacyLedger
from client_app.settings import SiteSettings
from common import lora
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.labels import STRUCTURES
from common.messages import Description, Update
from common.model import file_sha256, load_base
from common.seeding import derive_seed
from common.weights import Weights

MOST_OPEN = 4
"""How many simulated sites a process holds."""
POOLED = "all sites"
"""Name of the one site that holds all cases, where ``pool`` is set."""


class Site:
    """One site of a run.

    Parameters
    ----------
    settings
        The site's settings.
    config
        The run's configuration, with the site's settings in it.

    Raises
    ------
    UserError
        The data or the base model cannot be used.
    """

    def __init__(self, settings: SiteSettings, config: RunConfig) -> None:
        self.settings = settings
        self.config = config
        data = settings.data_dir or config.data.data_dir
        base = settings.base_model or config.base_model
        if not settings.simulated and not (data and base):  # never a phantom in its place
            missing = "base-model" if data else "data-dir"
            raise UserError(f"node config: found no {missing!r}, expected this site's path")
        if not data or not base:
            phantom = demo.provide(config, need_base=not base)
            data, base = data or str(phantom.data_dir), base or str(phantom.base_model)
        self.base_model = config.path(base)
        data_dir = config.path(data)
        self.name, cases = _own_cases(settings, config, data_dir)
        self.cases = _divided(cases, config, settings.cohorts(), f"{data_dir}: site")
        cache = prepared.folder(settings, config, chain(*self.cases.values()))
        self.volumes: dict[Split, list[Volume]] = {
            split: self._load(self.cases[split], cache) for split in SPLITS
        }
        self.hidden = {split: self._hidden(split) for split in SPLITS}
        if self.hidden["val"].all():
            raise TooFewPatientsError(
                f"{data_dir}: site {self.name}: no structure is labelled in at least "
                f"{settings.cohorts().val} of the {len(self.patients('val'))} validation patients"
            )
        self.slices = training_slices(self.volumes["train"])
        self.by_patient = [training_slices(found) for found in self._by_patient()]
        self.base_sha256 = file_sha256(self.base_model)

    def _load(self, cases: list[Case], cache: Path) -> list[Volume]:
        dataset = volumes(cases, self.config.data.spacing_mm, cache)
        return [load_volume(dataset, index) for index in range(len(cases))]

    def patients(self, split: Split) -> set[str]:
        """Return the patients of a split."""
        return {case.patient for case in self.cases[split]}

    def _hidden(self, split: Split) -> np.ndarray:
        """Return bool (3,): structures of too few of a split's patients to tell a score of."""
        having: list[set[str]] = [set() for _ in STRUCTURES]
        for case, volume in zip(self.cases[split], self.volumes[split], strict=True):
            for structure in np.flatnonzero(present(volume["native_label"])):
                having[structure].add(case.patient)
        least = self.settings.cohorts().val
        return np.array([len(patients) < least for patients in having])

    def _by_patient(self) -> Iterable[list[Volume]]:
        found: dict[str, list[Volume]] = {}
        for case, volume in zip(self.cases["train"], self.volumes["train"], strict=True):
            found.setdefault(case.patient, []).append(volume)
        return found.values()

    def describe(self) -> Description:
        """Return what the site tells the server about itself.

        Raises
        ------
        UserError
            The base file does not fit the run's model.
        """
        self.model()
        return Description(
            self.name,
            self.base_sha256,
            len(self.slices),
            **{f"{split}_cases": len(self.cases[split]) for split in SPLITS},
            max_rank=self.settings.max_rank or None,
        )

    def model(self) -> BasicUNet:
        """Return the frozen base model, without an adapter."""
        channels = self.config.model.channels()
        return load_base(self.base_model, channels, sha256=self.config.base_sha256)

    def network(self, state: State) -> BasicUNet:
        """Return the base model with a state's folded changes and its adapter or weights in it."""
        model = self.model()
        if state.folded is not None:
            lora.add_dense(model, state.folded)
        match state.parameters:
            case Adapter() as adapter:
                lora.set_adapter(model, adapter)
            case Weights(values) if values:
                model.load_state_dict(dict(values))
        return model

    def train(self, state: State, server_round: int) -> Update:
        """Train a state's adapter or weights for the run's local epochs on the training slices.

        What the state folds stays as it is. The round seeds the order of the slices and their
        augmentation, and decides which factors train. With differential privacy the operating
        system's generator takes the seed's place, and no loss is reported.

        Raises
        ------
        LimitError
            The training would spend more privacy than the site allows.
        """
        started = time.monotonic()
        model = self.network(state)
        whole = isinstance(state.parameters, Weights)
        method = self.config.method
        start_dice = self._score(model, "val").mean_dice if method.rates_start else None
        if whole:
            model.requires_grad_(True)
        else:
            lora.train_only(model, method.trained(server_round))
        if self.settings.privacy.on:
            told = self._train_privately(model)
        else:
            told = {"loss": self._train(model, server_round)}
        seconds = time.monotonic() - started
        own_dice = self._score(model, "val").mean_dice if method.rates_own else None
        result = _weights(model) if whole else lora.get_adapter(model)
        return Update(
            result, len(self.slices), seconds, start_dice=start_dice, local_dice=own_dice, **told
        )

    def _train(self, model: BasicUNet, server_round: int) -> float:
        """Train what requires a gradient, in place; return the last epoch's loss."""
        settings, loss = self.config.train, 0.0
        trainer = Trainer(model, settings, settings.learning_rate, proximal=settings.proximal)
        for epoch in range(settings.local_epochs):
            seed = derive_seed(self.config.seed, self.name, server_round, epoch)
            loss = trainer.epoch(self.slices, seed)
        return loss

    def _train_privately(self, model: BasicUNet) -> dict[str, float]:
        """Train as :meth:`_train` with differential privacy; return the ε and δ spent in all."""
        settings, privacy = self.config.train, self.settings.privacy
        steps = privacy.steps(settings.local_epochs)
        cache_dir = self.config.path(self.config.data.cache_dir)
        spent = PrivacyLedger(cache_dir, self.name, privacy).spend(steps)
        trainer = PrivateTrainer(
            model,
            settings,
            settings.learning_rate,
            noise_multiplier=privacy.noise_multiplier,
            clip_norm=privacy.clip_norm,
            sampling_rate=privacy.sampling_rate,
            proximal=settings.proximal,
        )
        trainer.train(self.by_patient, steps)
        return {"epsilon": spent, "delta": privacy.delta}

    def score(self, state: State, split: Split, *, hd95: bool = False) -> Scores:
        """Return a state's scores on a split of the site's own patients."""
        return self._score(self.network(state), split, hd95=hd95)

    def _score(self, model: BasicUNet, split: Split, *, hd95: bool = False) -> Scores:
        device = self.config.train.torch_device()
        scores = evaluate(model, self.volumes[split], device, hd95=hd95)
        return scores.without(self.hidden[split])

    def memory(self, run_id: str) -> Memory:
        """Return where the site keeps what it needs in a run's next round."""
        return Memory(memory_folder(self.config, run_id, self.name))


def _weights(model: BasicUNet) -> Weights:
    state = model.state_dict()
    return Weights({k: v.detach().to("cpu", torch.float32, copy=True) for k, v in state.items()})


def _divided(
    groups: Mapping[str, list[Case]], config: RunConfig, least: Cohorts, source: str
) -> dict[Split, list[Case]]:
    """Split each group's cases on their own, keep those that the run uses, and join the groups."""
    data = config.data
    divided: dict[Split, list[Case]] = {split: [] for split in SPLITS}
    for name, cases in groups.items():
        try:
            parts = restrict(
                split_cases(cases, data.split_seed, least),
                train_patients=data.train_patients,
                val_patients=data.val_patients,
                validate_on=data.validate_on,
                seed=data.split_seed,
            )
        except UserError as error:
            raise type(error)(f"{source} {name}: {error}") from None
        for split in SPLITS:
            divided[split] += parts[split]
    return divided


def _own_cases(
    settings: SiteSettings, config: RunConfig, data_dir: Path
) -> tuple[str, Mapping[str, list[Case]]]:
    """Return this site's name and its cases by group, from a folder that may hold several sites."""
    column = config.data.split_by
    groups = group_by_site(read_cases(data_dir, config.data.affine_axes), column, data_dir)
    found = f"{data_dir}: split by {column} it has {len(groups)} site(s): {', '.join(groups)}"
    if settings.name:
        if settings.name not in groups:
            raise UserError(f"{found}; expected one called {settings.name!r} (node config: site)")
        return settings.name, {settings.name: groups[settings.name]}
    assert settings.partition is not None
    nodes = max(settings.partitions or 0, settings.partition + 1)
    if nodes > len(groups):
        raise UserError(f"{found}; {nodes} SuperNodes are simulated, expected at most one a site")
    if config.data.pool:
        return POOLED, groups
    name = list(groups)[settings.partition]
    return name, {name: groups[name]}


class OpenSites:
    """The sites that this process has read, each once for all requests of a run.

    A deployed site forgets one run's patients before it reads them for another.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[SiteSettings, RunConfig], Site] = {}

    def __call__(self, settings: SiteSettings, config: RunConfig) -> Site:
        """Return the site with a run's configuration; see :class:`Site` for the errors."""
        found = self._open.get((settings, config))
        if found is None:
            if not settings.simulated or len(self._open) == MOST_OPEN:
                self.cache_clear()
            found = self._open[settings, config] = Site(settings, config)
        return found

    def cache_clear(self) -> None:
        """Forget all sites, as their data may have changed."""
        self._open.clear()


open_site = OpenSites()
