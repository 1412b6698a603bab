"""The run configuration: flat kebab-case keys in, frozen and checked dataclasses out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.options import Value, checked, option


@dataclass(frozen=True)
class ModelConfig:
    """The network and its adapters."""

    features: str = option("8,16,32,64,128,8")
    """Channels of the U-Net: five levels and the last decoder level."""
    rank: int = option(8, low=1, high=512)
    """LoRA rank of the largest site, and the rank of the merged adapter where all are equal."""
    ranks: str = option("by-size")
    """``by-size``, ``equal``, a rank per site in the order of their names (``16,32,32``), or
    by name (``GE=16,Philips=32,Siemens=32``)."""
    alpha_per_rank: float = option(1.0, above=0)
    """alpha / rank, one for all sites, so that factors of different ranks have one scale."""

    def channels(self) -> tuple[int, ...]:
        """Return ``features`` as numbers."""
        parts = [part.strip() for part in self.features.split(",")]
        if len(parts) != 6 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            raise UserError(
                f"features: found {self.features!r}, expected six channel counts such as "
                "'32,64,128,256,512,32'"
            )
        return tuple(int(part) for part in parts)


@dataclass(frozen=True)
class DataConfig:
    """Where the cases are and how they are divided."""

    data_dir: str = option("")
    """Folder in M&Ms-2 or ACDC layout; empty for a phantom that is made on the spot. A site's
    node configuration ``data-dir`` takes its place."""
    affine_axes: str = option("LPS", choices=("LPS", "RAS"))
    """What the first two axes of the NIfTI affines are: LPS as in ACDC and M&Ms-2, or RAS as the
    standard has it and dcm2niix writes it. A site's node configuration may say otherwise."""
    split_by: str = option("VENDOR")
    """Column whose values are the sites."""
    split_seed: int = option(0, low=0)
    """Seeds who is in train, validation and test."""
    spacing_mm: float = option(1.5, above=0, high=10)
    """In-plane spacing of the network's grid."""
    cache_dir: str = option("runs/cache")
    """Where prepared volumes, phantoms and pretrained demo bases are kept."""


@dataclass(frozen=True)
class TrainConfig:
    """Local training, and pretraining where it has keys of its own."""

    local_epochs: int = option(1, low=1)
    """Passes over a site's training slices in a round."""
    batch_size: int = option(16, low=1)
    """Slices in a step."""
    image_size: int = option(96, low=32)
    """Side of the square training crop in pixels, a multiple of 16."""
    learning_rate: float = option(0.003, above=0)
    """Of AdamW on the adapter."""
    weight_decay: float = option(0.0, low=0)
    """Of AdamW."""
    augment: bool = option(True)
    """Whether training slices are changed at random."""
    pretrain_epochs: int = option(5, low=1)
    """Epochs of ``rate-my-lora pretrain``."""
    pretrain_learning_rate: float = option(0.003, above=0)
    """Highest learning rate of pretraining; it falls along a cosine."""
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    """Where to compute; ``auto`` takes a GPU when there is one."""
    mixed_precision: bool = option(True)
    """Half precision on a GPU; the CPU always computes in single precision."""
    threads: int = option(0, low=0)
    """CPU threads of a site's process; 0 leaves them as they are."""

    def torch_device(self) -> torch.device:
        """Return the device to compute on.

        Raises
        ------
        UserError
            CUDA is asked for and there is none.
        """
        if self.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device: found 'cuda', but this machine has no usable CUDA device")
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)


@dataclass(frozen=True)
class MethodConfig:
    """The federation and its rating."""

    rounds: int = option(8, low=1)
    """Number of server rounds."""
    lambda_0: float = option(0.2, low=0, high=1)
    """λ of round 1; 0 is plain federated averaging of adapters."""
    decay: float = option(0.95, above=0, high=1)
    """Factor on λ from round to round."""
    share: str = option("site", choices=("site", "examples"))
    """A site's share of the merge: 1/N, or |D_c| / Σ|D|."""
    merge: str = option("svd", choices=("svd", "pad"))
    """How adapters are combined: ``svd``, the mean of the products taken back to rank r, or
    ``pad``, the mean of zero-padded factors (of equal ranks: the mean of the factors)."""
    normalise: str = option("auto", choices=("auto", "yes", "no"))
    """Whether penalised weights are scaled to sum to one; ``auto`` follows the merge."""
    previous: str = option("equal", choices=("equal", "penalised"))
    """Which merge P(t−1) is of: the equal one as P(t), or the penalised re-merge."""
    local_validation: bool = option(False)
    """Whether a site rates its own adapter too, after training and before any merge; costs one
    more validation a round."""
    norm_bound: float = option(0.0, low=0)
    """A site's change of its adapter is scaled back to at most this times the median norm of the
    sites' changes; 0 for off, otherwise at least 1. It and the next need ``merge = "svd"``."""
    min_agreement: float = option(-1.0, low=-1, high=1)
    """A site whose change has a lower median cosine with the others' is left out of the round's
    merge; −1 for off."""
    rating_check: float = option(0.0, low=0)
    """A site whose Dice changed otherwise than the sites' median, by more than this times their
    median distance from it, is left out of the penalty; 0 for off, otherwise at least 1."""
    sites: int = option(3, low=1)
    """Sites that the run waits for before round 1."""
    min_sites: int = option(2, low=1)
    """Sites that a round needs to go on."""
    wait_s: int = option(300, low=1)
    """Seconds to wait for ``sites`` to connect; then ``min-sites`` are enough."""
    round_timeout_s: int = option(3600, low=1)
    """Seconds after which a phase of a round goes on without a silent site."""


@dataclass(frozen=True)
class RunConfig:
    """All of it; see each group. The defaults are the demo."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    profile: str = ""
    """Name of a file in ``configs/`` that is laid under the keys given by the user."""
    seed: int = option(0, low=0)
    """Seeds initial factors, order and augmentation."""
    base_model: str = ""
    """Base file; empty lets the demo pretrain one on its phantom. A site's node configuration
    ``base-model`` takes its place."""
    base_sha256: str = ""
    """Fingerprint that every site's base file must have; empty asks only that all agree."""
    run_dir: str = "runs/latest"
    """Where the run leaves its files."""
    resume: bool = False
    """Whether to go on from the checkpoint in ``run-dir``."""
    keep_updates: str = option("last", choices=("none", "last", "all"))
    """Of which rounds ``run-dir/updates`` keeps the adapters that the sites sent."""
    tensorboard: bool = False
    """Whether to write TensorBoard event files into ``run-dir/tensorboard``."""

    @classmethod
    def from_flat(cls, flat: Mapping[str, Value], source: str = "run config") -> "RunConfig":
        """Parse flat kebab-case keys over the defaults.

        Raises
        ------
        UserError
            A key is unknown, or its value is of the wrong type or out of range.
        """
        groups, own = _layout()
        if unknown := sorted(set(flat) - set(groups) - set(own)):
            raise UserError(
                f"{source}: unknown key {unknown[0]!r}; known are {', '.join(sorted(cls.keys()))}"
            )
        values: dict[str, dict[str, Value]] = {group: {} for group in GROUPS}
        top: dict[str, Value] = {}
        for key, value in flat.items():
            if key in groups:
                group, spec = groups[key]
                values[group][spec.name] = checked(key, value, spec, source)
            else:
                top[own[key].name] = checked(key, value, own[key], source)
        made: dict[str, Any] = {name: GROUPS[name](**values[name]) for name in GROUPS}
        config = cls(**made, **top)  # type: ignore[arg-type]
        config._check_together(source)
        return config

    def to_flat(self) -> dict[str, Value]:
        """Return every key with its value, as :meth:`from_flat` reads them."""
        groups, own = _layout()
        flat = {
            key: getattr(getattr(self, group), spec.name) for key, (group, spec) in groups.items()
        }
        return {**flat, **{key: getattr(self, spec.name) for key, spec in own.items()}}

    @staticmethod
    def keys() -> list[str]:
        """Return all keys in the order of their declaration."""
        groups, own = _layout()
        return [*groups, *own]

    def _check_together(self, source: str) -> None:
        self.model.channels()
        m, size = self.method, self.train.image_size
        products = m.norm_bound > 0 or m.min_agreement > -1
        screening = products or m.rating_check > 0
        checks = {
            "image-size": (size, size % 16 == 0, "a multiple of 16"),
            "min-sites": (m.min_sites, m.min_sites <= m.sites, f"at most sites = {m.sites}"),
            "norm-bound": (m.norm_bound, not 0 < m.norm_bound < 1, "0 or at least 1"),
            "rating-check": (m.rating_check, not 0 < m.rating_check < 1, "0 or at least 1"),
            "merge": (m.merge, not products or m.merge == "svd",
                      "'svd' with norm-bound or min-agreement, which measure products"),
            "sites": (m.sites, not screening or m.sites >= 3,
                      "at least 3 with norm-bound, min-agreement or rating-check"),
        }  # fmt: skip
        for key, (found, good, expected) in checks.items():
            if not good:
                raise UserError(f"{source}: {key}: found {found!r}, expected {expected}")

    def path(self, value: str) -> Path:
        """Return a configured path, with ``~`` resolved."""
        return Path(value).expanduser()


GROUPS: dict[str, Any] = {
    "model": ModelConfig,
    "data": DataConfig,
    "train": TrainConfig,
    "method": MethodConfig,
}


def _layout() -> tuple[dict[str, tuple[str, Any]], dict[str, Any]]:
    """Return the keys of the groups, as (group, field), and the keys of the run itself."""
    groups = {_key(f.name): (name, f) for name, cls in GROUPS.items() for f in fields(cls)}
    own = {_key(f.name): f for f in fields(RunConfig) if f.name not in GROUPS}
    return groups, own


def _key(name: str) -> str:
    return name.replace("_", "-")
