"""The limits of a deployed site: a range for every key of a run, and the memory that it needs."""

import re
from collections.abc import Mapping
from logging import ERROR
from pathlib import Path

from flwr.common import log

from client_app.settings import LimitError, SiteSettings
from common.config import HIGHEST_RANK, HIGHEST_SEED, RunConfig
from common.messages import MEMORY, OTHER_NETWORK, Request
from common.model import read_features, skeleton, weight_bytes
from common.ranks import highest_rank

RANGES: Mapping[str, tuple[float, float]] = {
    "rank": (1, HIGHEST_RANK),
    "alpha-per-rank": (0.05, 20),
    "spacing-mm": (0.5, 5),
    "local-epochs": (1, 100),
    "batch-size": (1, 1024),
    "image-size": (32, 1024),
    "learning-rate": (1e-6, 0.1),
    "weight-decay": (0, 1),
    "proximal": (0, 1000),
    "rating-step": (0, 1),
    "lambda-0": (0, 1),
    "decay": (0, 1),
    "tolerance": (0, 1),
    "norm-bound": (0, 1e12),
    "min-agreement": (-1, 1),
    "rating-check": (0, 1e12),
    "pretrain-epochs": (1, 100_000),
    "pretrain-learning-rate": (0, 10),
    "seed": (0, HIGHEST_SEED),
    "split-seed": (0, HIGHEST_SEED),
    "train-patients": (0, 0),
    "val-patients": (0, 0),
}
"""Lowest and highest value of each number that a run may ask a site for.

Those of training are within an order or two of what was ever useful. The last but two are read by
nobody at a deployed site, and the last two choose patients, which only a simulation may.
"""
TEXTS: Mapping[str, re.Pattern[str]] = {
    "features": re.compile(r"\d{1,4}( ?, ?\d{1,4}){5}"),
    "ranks": re.compile(r"by-size|equal|[^\x00-\x1f]{1,100000}"),
    "split-by": re.compile(r"[^\x00-\x1f]{0,100}"),
    "validate-on": re.compile(""),
    "exclude": re.compile(r"[^\x00-\x1f]{0,10000}"),
    "base-sha256": re.compile(r"([0-9a-fA-F]{64})?"),
}
"""What each text must match that is not one of a few choices."""
COPIES = 20
"""Bytes in a training step, in units of one float for each channel and pixel of the six levels.

Measured: 9 to 14 are kept for the backward pass, and at most 17 are there at a time.
"""
OPTIMISER = 5
"""The weights, their gradients, two moments and a copy, in units of the weights."""


def check(settings: SiteSettings, request: Request) -> None:
    """Check a request against the site's limits, before memory, disk or threads are taken.

    In a simulation only the site's own settings count.

    Raises
    ------
    LimitError
        The site does not serve the request, or the request asks for too much.
    """
    settings.check(request.kind, request.config, request.site_rank)
    if settings.simulated:
        return
    model = request.config.model
    rank, most = max(request.site_rank, request.run_rank), highest_rank(model.ranks, model.rank)
    if rank > most:  # what the hospital approved says how much leaves
        raise LimitError(f"rank {rank} is asked, this site allows {most}")
    flat = request.config.to_flat()
    for key, (low, high) in RANGES.items():
        value = flat[key]
        assert not isinstance(value, str)
        if not low <= value <= high:
            asked = f"{key} = {value:g} is asked"
            raise LimitError(f"{asked}, this site allows {low:g} to {high:g}")
    for key, pattern in TEXTS.items():
        if not pattern.fullmatch(str(flat[key])):
            raise LimitError(f"{key} has a value that this site does not allow")
    channels = request.config.model.channels()
    if settings.base_model and channels != features(settings):
        raise LimitError(OTHER_NETWORK)
    check_memory(settings, training_bytes(request.config))


def features(settings: SiteSettings) -> tuple[int, ...]:
    """Return the channels of the site's own base file; raises UserError where it is not one."""
    return read_features(Path(settings.base_model).expanduser())


def training_bytes(config: RunConfig) -> int:
    """Return about how much memory a training step takes."""
    channels, train = config.model.channels(), config.train
    side = train.image_size
    floats = sum(c * (side >> level) ** 2 for level, c in enumerate(channels[:-1]))
    floats += channels[-1] * side**2
    weights = weight_bytes(skeleton(channels))
    return 4 * COPIES * train.batch_size * floats + OPTIMISER * weights


def check_memory(settings: SiteSettings, needed: float) -> None:
    """Raise ``LimitError`` where a run needs more bytes of memory than the site allows."""
    if needed > settings.max_memory_gib * 2**30:
        need = f"{needed / 2**30:.3g} GiB of memory"
        log(ERROR, "a run needs about %s, max-memory-gib is %g", need, settings.max_memory_gib)
        raise LimitError(MEMORY)
