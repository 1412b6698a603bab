"""Examine one patient: images and labels of ED and ES on the scanner's grid."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardiac.phantom.beat import Grid, beat, heart_layers, label
from cardiac.phantom.chest import chest_layers, draw_chest
from cardiac.phantom.heart import draw_heart
from cardiac.phantom.orientation import oblique_affine, to_file_order
from cardiac.phantom.scanner import Scanner, acquire, tune
from common.seeding import derive_seed

PHASES = {"ED": 0.0, "ES": 1.0}
SLICES = 7, 12
"""Least and largest number of slices."""


@dataclass(frozen=True)
class Examination:
    """All that a patient's images depend on."""

    patient: int
    """Number of the patient in the data set."""
    disease: str
    """A key of ``DISEASES``."""
    scanner: Scanner
    seed: int


@dataclass(frozen=True)
class Frame:
    """One frame as the scanner stores it."""

    image: npt.NDArray[np.generic]
    """(i, j, k) intensities."""
    labels: npt.NDArray[np.generic]
    """(i, j, k) canonical labels."""
    affine: npt.NDArray[np.float64]
    """(4, 4)."""


def examine(examination: Examination) -> dict[str, Frame]:
    """Return the patient's frames ``ED`` and ``ES``, on one grid.

    The anatomy depends on the examination's seed and disease alone, not on the scanner.
    """
    anatomy, look, *noise = (
        np.random.default_rng(derive_seed(examination.seed, part))
        for part in ("anatomy", "look", *PHASES)
    )
    heart = draw_heart(anatomy, examination.disease)
    chest = draw_chest(anatomy, heart)
    offset_mm = anatomy.uniform((2, -8), (12, 6))  # the LV lies right of the heart's middle
    margin = float(anatomy.uniform(0.2, 1.4))  # slices above the base

    scanner = tune(examination.scanner, look)
    below_mm = heart.shape.length_mm + heart.shape.wall_mm + 4
    slices = int(np.clip(np.ceil(below_mm / scanner.thickness_mm + margin), *SLICES))
    width, height = scanner.matrix
    s_mm = (np.arange(slices) - margin) * scanner.thickness_mm
    x_mm = (np.arange(width)[:, None, None] - (width - 1) / 2) * scanner.spacing_mm
    y_mm = (np.arange(height)[None, :, None] - (height - 1) / 2) * scanner.spacing_mm
    grid = Grid(
        x=(x_mm - offset_mm[0]).astype(np.float32),
        y=(y_mm - offset_mm[1]).astype(np.float32),
        s=s_mm[None, None, :].astype(np.float32),
        pixel_mm=scanner.spacing_mm,
        slice_mm=scanner.thickness_mm,
    )
    frames = {}
    voxel_mm = scanner.spacing_mm, scanner.spacing_mm, scanner.thickness_mm
    affine = np.diag((*voxel_mm, 1.0))
    if scanner.oblique:
        shape = (height, width) if scanner.axes[0] in ("down", "up") else (width, height)
        affine = oblique_affine(scanner.axes, voxel_mm, (*shape, slices), look)
    for (name, phase), rng in zip(PHASES.items(), noise, strict=True):
        moment = beat(heart, phase, grid)
        layers = (*chest_layers(chest, grid), *heart_layers(heart, moment, grid))
        image = acquire(scanner, layers, grid, rng).astype(scanner.dtype)
        frames[name] = Frame(
            to_file_order(image, scanner.axes), to_file_order(label(moment), scanner.axes), affine
        )
    return frames
