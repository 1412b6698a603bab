"""The run configuration: flat kebab-case keys in, frozen and checked dataclasses out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.method import Check, MethodConfig
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
    pool: bool = option(False)
    """Whether one SuperNode holds the cases of all sites, each divided as on its own; only in
    simulation, as what one could reach if data were shared."""
    train_patients: int = option(0, low=0)
    """Most training patients of a site; 0 for all."""
    val_patients: int = option(0, low=0)
    """Most validation patients of a site; 0 for all."""
    validate_on: str = option("")
    """``COLUMN=VALUE``: only such validation patients; empty for all."""
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
    proximal: float = option(0.0, low=0)
    """μ of FedProx: the loss gains μ/2 · the squared distance from where the round began."""
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
class RunConfig:
    """All of it; see each group. The defaults are the demo."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    profile: str = ""
    """Name of a file in ``configs/`` that is laid under the keys given by the user."""
    preset: str = ""
    """Name of a method in ``strategies/methods.py`` whose keys are laid over the profile's, under
    those given by the user; empty for Rate-My-LoRA."""
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
        size, ranks = self.train.image_size, self.model.ranks
        equal = self.method.merge == "residual" or self.method.factors == "alternate"
        checks: list[Check] = [
            *self.method.checks(),
            ("image-size", size, size % 16 == 0, "a multiple of 16"),
            (
                "ranks",
                ranks,
                not equal or ranks == "equal",
                "'equal' with merge = 'residual' or factors = 'alternate'",
            ),
        ]
        for key, found, good, expected in checks:
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
