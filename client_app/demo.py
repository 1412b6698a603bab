"""The phantom and the base model of a run that names no data or no base; made once, then kept."""

import hashlib
import json
import time
from dataclasses import dataclass
from logging import INFO
from pathlib import Path

from filelock import FileLock
from flwr.common import log

from cardiac.phantom import write_phantom
from cardiac.pretraining import pretrain
from common.config import RunConfig

PHANTOM_VERSION = 3
"""Part of the names of the kept files; raise it when the phantom changes."""
REPORT_EVERY_S = 15.0


@dataclass(frozen=True)
class Provided:
    """Where the phantom and its base model are."""

    data_dir: Path
    base_model: Path


def provide(config: RunConfig, *, need_base: bool) -> Provided:
    """Make the phantom and a base pretrained on its source scanner, unless they are there.

    Sites of a simulation share the folder: the first one makes both, the others wait for it.
    """
    cache = config.path(config.data.cache_dir)
    cache.mkdir(parents=True, exist_ok=True)
    phantom = cache / f"phantom-{PHANTOM_VERSION}"
    base = cache / f"base-{_key(config)}.safetensors"
    with FileLock(cache / "demo.lock"):
        if not phantom.is_dir():
            log(INFO, "demo: making a phantom in %s", phantom)
            write_phantom(phantom)
        if need_base and not base.is_file():
            log(INFO, "demo: pretraining a base model, %s", base)
            pretrain(phantom / "acdc", base, config, _LogProgress())
    return Provided(phantom / "mnms2", base)


def _key(config: RunConfig) -> str:
    """Return a name for a base that changes with whatever the base depends on."""
    train, data = config.train, config.data
    content = [
        PHANTOM_VERSION,
        config.model.features, config.seed, data.spacing_mm, data.split_seed, train.image_size,
        train.batch_size, train.augment, train.pretrain_epochs, train.pretrain_learning_rate,
        train.weight_decay,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]


class _LogProgress:
    """Logs how far the pretraining is, every ``REPORT_EVERY_S``."""

    def __init__(self) -> None:
        self.last = time.monotonic()

    def __call__(self, what: str, done: int, total: int, loss: float) -> None:
        if time.monotonic() - self.last >= REPORT_EVERY_S or (done == total and loss):
            self.last = time.monotonic()
            log(INFO, "demo: %s %d/%d, loss %.3f", what, done, total, loss)
