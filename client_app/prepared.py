"""Prepared volumes of a deployed site: what they need of memory and disk, and which are kept."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from cardiac.datasets import Case
from cardiac.preprocessing import network_size
from client_app.limits import check_memory, training_bytes
from client_app.settings import LimitError, SiteSettings
from common.config import RunConfig
from common.labels import NUM_CLASSES
from common.messages import MEMORY

KEPT = 2
"""How many spacings have prepared volumes: that of the run and one of an earlier run."""
SCORED = 3
"""Floats at a time in segmenting a pixel, in units of the channels of the finest levels."""


def folder(settings: SiteSettings, config: RunConfig, cases: Iterable[Case]) -> Path:
    """Return the folder for prepared volumes, with room in memory and on the disk for these cases.

    In a simulation the folder is shared by all spacings and nothing is removed.

    Raises
    ------
    LimitError
        The volumes need more memory or disk than the site allows.
    """
    root = config.path(config.data.cache_dir) / "volumes"
    if settings.simulated:
        return root
    held, scoring = _bytes(config, cases)
    check_memory(settings, held + max(scoring, training_bytes(config)))
    most = settings.max_cache_gib * 2**30
    if held > most:
        raise LimitError(MEMORY)
    own = root / f"{config.data.spacing_mm!r}-mm"
    own.mkdir(parents=True, exist_ok=True)
    os.utime(own)
    make_room(own, most - held)
    return own


def make_room(own: Path, most: float) -> None:
    """Remove the oldest folders beside ``own`` until ``KEPT`` are left, with ``most`` bytes."""
    others = [path for path in own.parent.iterdir() if path != own]
    left = 0
    for number, path in enumerate(sorted(others, key=_changed, reverse=True), start=1):
        left += sum(file.stat().st_size for file in path.glob("*"))
        if path.is_dir() and (number >= KEPT or left > most):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_file():  # of a version that had one folder for all spacings
            path.unlink(missing_ok=True)


def _changed(path: Path) -> tuple[bool, float]:
    return path.is_dir(), path.stat().st_mtime


def _bytes(config: RunConfig, cases: Iterable[Case]) -> tuple[int, int]:
    """Return the bytes of all prepared volumes, and of segmenting the largest, by their headers."""
    channels = config.model.channels()
    per_pixel = SCORED * (channels[0] + channels[1] + channels[-1])
    held, scoring = 0, 0
    for case in cases:
        try:
            image = nib.load(case.image)
            size = image.shape[:2]
            spacing = np.linalg.norm(image.affine[:3, :2], axis=0)
            slices = image.shape[2]
            h, w = network_size(size, spacing.tolist(), config.data.spacing_mm)
        except Exception:  # noqa: S112 - what is wrong with a file is said when it is read
            continue
        native = slices * size[0] * size[1]
        held += slices * h * w * 5 + native
        scoring = max(scoring, 4 * (slices * h * w * per_pixel + SCORED * NUM_CLASSES * native))
    return held, scoring
