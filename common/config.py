"""The run configuration: every key of a run with its default, range and meaning."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from common.errors import UserError
from common.method import MethodConfig
from common.options import Check, Value, every_key_affects, keys_of, option, parse, to_flat

WIDEST = 4096
"""Highest number of channels in a level of the U-Net."""
HIGHEST_RANK = 512
HIGHEST_SEED = 2**32 - 1
MOST_ROUNDS = 100_000


@dataclass(frozen=True)
class ModelConfig:
    """The network and its adapters."""

    features: str = option("8,16,32,64,128,8", affects="result", longest=100)
    """Channels of the U-Net: five levels and the last decoder level."""
    rank: int = option(8, affects="result", low=1, high=HIGHEST_RANK)
    """LoRA rank of all sites (``ranks = "equal"``) or of the largest site (``"by-size"``)."""
    ranks: str = option("by-size", affects="result", longest=100_000)
    """``by-size`` (half the rank for half the training slices), ``equal``, a rank per site in the
    order of their names (``16,32,32``), or ranks by name (``GE=16,Philips=32,Siemens=32``)."""
    alpha_per_rank: float = option(1.0, affects="result", above=0, high=1000)
    """alpha / rank, the same at all sites, so that factors of different ranks have one scale."""

    def channels(self) -> tuple[int, ...]:
        """Return ``features`` as numbers."""
        return tuple(int(part) for part in self.features.split(","))

    def checks(self) -> list[Check]:
        """Return the checks beyond type and range."""
        parts = [part.strip() for part in self.features.split(",")]
        good = all(part.isdecimal() and 0 < int(part) <= WIDEST for part in parts)
        return [
            ("features", self.features, len(parts) == 6 and good,
             "six channel counts such as '32,64,128,256,512,32', each at least 1 and at most "
             f"{WIDEST}"),
        ]  # fmt: skip


@dataclass(frozen=True)
class DataConfig:
    """The cases' folder, and how they are split and prepared."""

    data_dir: str = option("", affects="input")
    """Folder with the cases; empty for a phantom that is made on the spot. A site's node
    configuration ``data-dir`` replaces it."""
    affine_axes: str = option("LPS", affects="result", choices=("LPS", "RAS"))
    """Directions of the NIfTI affines' first two axes: LPS as in ACDC and M&Ms-2, or RAS as in the
    standard and from dcm2niix. A deployed site takes its own, as ``split-by`` and ``split-seed``,
    and declines a run that sets a key of :meth:`simulated_only`."""
    split_by: str = option("VENDOR", affects="result", longest=100)
    """Column of the data set's table whose values are the sites."""
    split_seed: int = option(0, affects="result", low=0, high=HIGHEST_SEED)
    """Seed of the split into training, validation and test patients."""
    pool: bool = option(False, affects="result")
    """Whether one SuperNode trains on the cases of all sites, each split as on its own: the
    ceiling if data were shared, in simulation only."""
    train_patients: int = option(0, affects="result", low=0, high=1_000_000)
    """Highest number of training patients at a site, in simulation only; 0 for all."""
    val_patients: int = option(0, affects="result", low=0, high=1_000_000)
    """Highest number of validation patients at a site, in simulation only; 0 for all."""
    validate_on: str = option("", affects="result", longest=200)
    """``COLUMN=VALUE``: validate on these patients alone, in simulation only; empty for all."""
    spacing_mm: float = option(1.5, affects="result", low=0.3, high=10)
    """In-plane spacing, in mm, to which images are resampled for the network."""
    cache_dir: str = option("runs/cache", affects="place")
    """Folder of prepared volumes, phantoms and pretrained demo bases."""

    def simulated_only(self) -> dict[str, Value]:
        """Return the keys that choose patients, with their values; all are off by default.

        A run may set them in simulation only: with them a coordinator could single out patients.
        """
        return {
            "pool": self.pool,
            "train-patients": self.train_patients,
            "val-patients": self.val_patients,
            "validate-on": self.validate_on,
        }


@dataclass(frozen=True)
class TrainConfig:
    """Local training at the sites, and pretraining of the base."""

    local_epochs: int = option(1, affects="result", low=1, high=10_000)
    """Passes over a site's training slices in each round."""
    batch_size: int = option(16, affects="result", low=1, high=65_536)
    """Slices in a training step."""
    image_size: int = option(96, affects="result", low=32, high=4096)
    """Side of the square training crop in pixels, a multiple of 16."""
    learning_rate: float = option(0.003, affects="result", above=0, high=10)
    """Learning rate of AdamW in local training."""
    weight_decay: float = option(0.0, affects="result", low=0, high=1000)
    """Weight decay of AdamW in local training."""
    proximal: float = option(0.0, affects="result", low=0, high=1_000_000)
    """μ of FedProx: adds μ/2 · (squared distance from the round's start) to the loss."""
    augment: bool = option(True, affects="result")
    """Whether training slices are augmented at random."""
    pretrain_epochs: int = option(5, affects="result", low=1, high=100_000)
    """Epochs of ``rate-my-lora pretrain``."""
    pretrain_learning_rate: float = option(0.003, affects="result", above=0, high=10)
    """Highest learning rate of pretraining; it falls along a cosine."""
    device: str = option("auto", affects="machine", choices=("auto", "cpu", "cuda"))
    """Device to compute on; ``auto`` takes a GPU where there is one."""
    mixed_precision: bool = option(True, affects="result")
    """Whether a GPU computes in half precision; the CPU always computes in single precision."""
    threads: int = option(0, affects="machine", low=0, high=1024)
    """CPU threads of a site's process; 0 keeps torch's default."""

    def checks(self) -> list[Check]:
        """Return the checks beyond type and range."""
        return [("image-size", self.image_size, self.image_size % 16 == 0, "a multiple of 16")]

    def torch_device(self) -> torch.device:
        """Return the device to compute on; raises UserError where CUDA is asked for and missing."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device: found 'cuda', but this machine has no usable CUDA device")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


@dataclass(frozen=True)
class FederationConfig:
    """Number of rounds, and the sites that the server waits for."""

    rounds: int = option(8, affects="length", low=1, high=MOST_ROUNDS)
    """Number of server rounds."""
    sites: int = option(3, affects="length", low=1, high=10_000)
    """Sites that the run waits for before round 1."""
    min_sites: int = option(2, affects="length", low=1, high=10_000)
    """Fewest sites that a round needs; with fewer the run stops."""
    exclude: str = option("", affects="result")
    """Names of sites that take no part from the beginning, with commas in between, as when a run is
    repeated without a hospital that withdrew."""
    wait_s: int = option(300, affects="machine", low=1, high=31_536_000)
    """Seconds to wait for ``sites`` to connect; after that ``min-sites`` are enough."""
    approval_wait_s: int = option(86_400, affects="machine", low=0, high=31_536_000)
    """Seconds to wait for hospitals that are connected and have not approved the run yet, before
    round 1; after that ``min-sites`` are enough. One that approves later joins later."""
    round_timeout_s: int = option(3600, affects="machine", low=1, high=31_536_000)
    """Seconds after which a phase of a round goes on without a silent site."""

    def excluded(self) -> set[str]:
        """Return ``exclude`` as names."""
        return {name.strip() for name in (*self.exclude.split(","), self.exclude)} - {""}

    def checks(self) -> list[Check]:
        """Return the checks of keys against each other."""
        fits = self.min_sites <= self.sites
        return [("min-sites", self.min_sites, fits, f"at most sites = {self.sites}")]


@dataclass(frozen=True)
class ScreeningConfig:
    """The server's checks of each site's adapter and Dice against those of the other sites."""

    norm_bound: float = option(0.0, affects="result", low=0, high=1e12)
    """A site's change of its adapter is scaled back to at most this times the median norm of the
    sites' changes; 0 for off, otherwise at least 1. Needs ``merge = "svd"``."""
    min_agreement: float = option(-1.0, affects="result", low=-1, high=1)
    """A site whose change has a lower median cosine with the others' is left out of the round's
    merge; −1 for off. Needs ``merge = "svd"``."""
    rating_check: float = option(0.0, affects="result", low=0, high=1e12)
    """A site is left out of the penalty where its change of Dice is farther from the sites' median
    change than this times their median distance from it; 0 for off, otherwise at least 1."""

    @property
    def compares_products(self) -> bool:
        """Whether the products of the sites' adapters are compared with each other."""
        return self.norm_bound > 0 or self.min_agreement > -1

    def checks(self) -> list[Check]:
        """Return the checks beyond type and range."""
        return [
            ("norm-bound", self.norm_bound, not 0 < self.norm_bound < 1, "0 or at least 1"),
            ("rating-check", self.rating_check, not 0 < self.rating_check < 1, "0 or at least 1"),
        ]


@every_key_affects
@dataclass(frozen=True)
class RunConfig:
    """All keys of a run, in groups; the defaults are those of the demo."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    screening: ScreeningConfig = field(default_factory=ScreeningConfig)
    profile: str = option("", affects="keys", longest=100)
    """Name of a file in ``configs/``, whose keys the user's keys override."""
    preset: str = option("", affects="keys", longest=100)
    """Name of a method in ``strategies/methods.py``, whose keys override the profile's and are
    overridden by the user's; empty for Rate-My-LoRA."""
    seed: int = option(0, affects="result", low=0, high=HIGHEST_SEED)
    """Seed of the initial factors, the order of slices and the augmentation."""
    base_model: str = option("", affects="input")
    """File of the base model; empty lets the demo pretrain one on its phantom. A site's node
    configuration ``base-model`` replaces it."""
    base_sha256: str = option("", affects="result", longest=64)
    """SHA-256 that every site's base file must have; empty requires only that all agree."""
    run_dir: str = option("runs/latest", affects="place")
    """Folder of the run's files."""
    resume: bool = option(False, affects="place")
    """Whether to continue from the checkpoint in ``run-dir``."""
    keep_updates: str = option("last", affects="output", choices=("none", "last", "all"))
    """Which rounds' adapters from the sites are kept in ``run-dir/updates``."""
    tensorboard: bool = option(False, affects="output")
    """Whether to write TensorBoard event files into ``run-dir/tensorboard``."""

    @classmethod
    def from_flat(cls, flat: Mapping[str, Value], source: str = "run config") -> "RunConfig":
        """Return the configuration with these keys over the defaults; see ``parse`` for errors."""
        return parse(cls, flat, source)

    def to_flat(self) -> dict[str, Value]:
        """Return every key with its value, as :meth:`from_flat` reads them."""
        return to_flat(self)

    @staticmethod
    def keys() -> list[str]:
        """Return all keys in the order of their declaration."""
        return list(keys_of(RunConfig))

    @staticmethod
    def keys_that_affect(*what: str) -> list[str]:
        """Return the keys that affect one of ``what``; see ``common.options.AFFECTS``."""
        return [key for key, spec in keys_of(RunConfig).items() if spec.metadata["affects"] in what]

    def checks(self) -> list[Check]:
        """Return the checks of keys of several groups against each other."""
        ranks, merge, sites = self.model.ranks, self.method.merge, self.federation.sites
        equal = merge == "residual" or self.method.factors == "alternate"
        products = self.screening.compares_products
        screens = products or self.screening.rating_check > 0
        return [
            ("sites", sites, not screens or sites >= 3,
             "at least 3 with norm-bound, min-agreement or rating-check"),
            ("merge", merge, not products or merge == "svd",
             "'svd' with norm-bound or min-agreement, which measure products"),
            ("ranks", ranks, not equal or ranks == "equal",
             "'equal' with merge = 'residual' or factors = 'alternate'"),
        ]  # fmt: skip

    def path(self, value: str) -> Path:
        """Return a configured path, with ``~`` resolved."""
        return Path(value).expanduser()
