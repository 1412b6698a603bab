"""A site: its cases in their splits, its base model, and what it does when it is asked."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from monai.networks.nets import BasicUNet

from client_app import demo
from client_app.datasets import Case, group_by_site, read_cases
from client_app.evaluation import Scores, evaluate
from client_app.preprocessing import Volume, load_volume, volumes
from client_app.settings import SiteSettings
from client_app.splits import SPLITS, Split, split_cases
from client_app.training import Trainer, training_slices
from common import lora
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.model import file_sha256, load_base
from common.seeding import derive_seed


@dataclass(frozen=True)
class Description:
    """What a site tells the server before anything else; counts only."""

    name: str
    base_sha256: str
    train_slices: int
    cases: Mapping[Split, int]
    max_rank: int


@dataclass(frozen=True)
class Training:
    """What a round of local training gives."""

    adapter: Adapter
    slices: int
    loss: float
    seconds: float
    start_dice: float | None
    local_dice: float | None


class Site:
    """One site of a run.

    Parameters
    ----------
    settings
        Of the site.
    config
        Of the run.

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
            raise UserError(f"node config: found no {missing!r}, expected where this site's is")
        if not data or not base:
            phantom = demo.provide(config, need_base=not base)
            data, base = data or str(phantom.data_dir), base or str(phantom.base_model)
        self.base_model = config.path(base)
        data_dir = config.path(data)
        self.name, cases = _own_cases(settings, config, data_dir)
        try:
            self.cases = split_cases(cases, config.data.split_seed)
        except UserError as error:
            raise UserError(f"{data_dir}: site {self.name}: {error}") from None
        self.volumes: dict[Split, list[Volume]] = {
            split: self._load(self.cases[split]) for split in SPLITS
        }
        self.slices = training_slices(self.volumes["train"])
        self.base_sha256 = file_sha256(self.base_model)

    def _load(self, cases: list[Case]) -> list[Volume]:
        cache_dir = self.config.path(self.config.data.cache_dir) / "volumes"
        dataset = volumes(cases, self.config.data.spacing_mm, cache_dir)
        return [load_volume(dataset, index) for index in range(len(cases))]

    def describe(self) -> Description:
        """Say who this is; the base file is checked against the model on the way."""
        self.model()
        counts: dict[Split, int] = {split: len(self.cases[split]) for split in SPLITS}
        return Description(
            self.name, self.base_sha256, len(self.slices), counts, self.settings.max_rank
        )

    def model(self) -> BasicUNet:
        """Return the frozen base model, without an adapter."""
        channels = self.config.model.channels()
        return load_base(self.base_model, channels, sha256=self.config.base_sha256)

    def train(self, adapter: Adapter, server_round: int) -> Training:
        """Train ``adapter`` for the run's local epochs on the training slices."""
        started = time.monotonic()
        model = self.model()
        lora.set_adapter(model, adapter)
        penalised = self.config.method.previous == "penalised"
        start_dice = self._score(model, "val").mean_dice if penalised else None
        settings = self.config.train
        trainer = Trainer(model, settings, settings.learning_rate)
        loss = 0.0
        for epoch in range(settings.local_epochs):
            seed = derive_seed(self.config.seed, self.name, server_round, epoch)
            loss = trainer.epoch(self.slices, seed)
        seconds = time.monotonic() - started
        rated = self.config.method.local_validation
        local_dice = self._score(model, "val").mean_dice if rated else None
        return Training(
            lora.get_adapter(model), len(self.slices), loss, seconds, start_dice, local_dice
        )

    def score(self, adapter: Adapter | None, split: Split, *, hd95: bool = False) -> Scores:
        """Score the base model with ``adapter`` on a split of the site's own patients."""
        model = self.model()
        if adapter is not None:
            lora.set_adapter(model, adapter)
        return self._score(model, split, hd95=hd95)

    def _score(self, model: BasicUNet, split: Split, *, hd95: bool = False) -> Scores:
        device = self.config.train.torch_device()
        return evaluate(model, self.volumes[split], device, hd95=hd95)


def _own_cases(settings: SiteSettings, config: RunConfig, data_dir: Path) -> tuple[str, list[Case]]:
    """Return this site's name and cases of a folder that may hold several sites'."""
    column = config.data.split_by
    groups = group_by_site(read_cases(data_dir, config.data.affine_axes), column, data_dir)
    found = f"{data_dir}: split by {column} it has {len(groups)} site(s): {', '.join(groups)}"
    if settings.name:
        if settings.name not in groups:
            raise UserError(f"{found}; expected one called {settings.name!r} (node config: site)")
        return settings.name, groups[settings.name]
    assert settings.partition is not None
    nodes = max(settings.partitions or 0, settings.partition + 1)
    if nodes > len(groups):
        raise UserError(f"{found}; {nodes} SuperNodes are simulated, expected at most one a site")
    name = list(groups)[settings.partition]
    return name, groups[name]


@lru_cache(maxsize=4)
def open_site(settings: SiteSettings, config: RunConfig) -> Site:
    """Return the site, read once a process and run."""
    return Site(settings, config)
