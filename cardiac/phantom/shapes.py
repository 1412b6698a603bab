"""Tissues, soft edges and smooth random textures, from which bodies are made.

A shape is given by the depth of each point inside it, in mm, so any scanner's grid can sample the
same body. Coordinates broadcast: x, to the image's right, is ``(w, 1, 1)``; y, down the image, is
``(1, h, 1)``; s, from base to apex across the slices, is ``(1, 1, z)``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
"""Single precision wherever the array is as large as a scan."""
FIELD_EXTENT_MM = 260.0
"""Longest wavelength of a field."""


class Tissue(Enum):
    """A material that a scanner shows at a brightness of its own."""

    BLOOD = "blood"
    MYOCARDIUM = "myocardium"
    """Myocardium and all other muscle."""
    FAT = "fat"
    LUNG = "lung"
    LIVER = "liver"
    BACKGROUND = "background"


Layer = tuple[Tissue, Array]
"""A tissue and the share of each voxel ``(w, h, z)`` that it takes, from 0 to 1.

A later layer hides earlier ones.
"""


def cover(depth_mm: Array, edge_mm: float | Array) -> Array:
    """Return the share of each voxel that a shape fills, from 0 to 1.

    Parameters
    ----------
    depth_mm
        Depth of the voxel's centre inside the shape; negative outside.
    edge_mm
        Width over which the edge runs from empty to full: the pixel, or more where the surface
        is slanted within the slice.
    """
    filled: Array = np.clip(depth_mm / edge_mm + np.float32(0.5), 0, 1)
    return filled


@dataclass(frozen=True)
class Field:
    """A smooth random function of position, of mean 0 and variance 1.

    It is a sum of products of cosines without a grid of its own, so ED and ES or two scanners show
    the same texture.
    """

    coefficients: Array
    """(fx, fy, fs), one for each product of frequencies."""
    phases: tuple[Array, Array, Array]
    """Phase of each frequency along x, y and s."""

    def __call__(self, x: Array, y: Array, s: Array) -> Array:
        """Return the function's values ``(w, h, z)`` at broadcastable coordinates in mm."""
        waves_x, waves_y, waves_s = (
            np.cos(
                np.float32(2 * np.pi / FIELD_EXTENT_MM)
                * axis.ravel()[:, None]
                * np.arange(1, phase.size + 1, dtype=np.float32)
                + phase
            )
            for axis, phase in zip((x, y, s), self.phases, strict=True)
        )
        fx, fy, fs = self.coefficients.shape
        mixed = waves_x @ self.coefficients.reshape(fx, fy * fs)  # (w, fy * fs)
        mixed = mixed.reshape(-1, fy, fs) @ waves_s.T  # (w, fy, z)
        values: Array = np.matmul(waves_y, mixed)  # (w, h, z)
        return values


def draw_field(rng: np.random.Generator, grain_mm: float) -> Field:
    """Draw a field whose blobs are about ``grain_mm`` across."""
    most = int(np.ceil(FIELD_EXTENT_MM / grain_mm))
    cycles = np.arange(1, most + 1) / FIELD_EXTENT_MM
    weight = np.exp(-2 * (cycles * grain_mm) ** 2)
    weights = weight[:, None, None] * weight[None, :, None] * weight[None, None, :]
    coefficients = rng.standard_normal(weights.shape) * weights
    coefficients *= np.sqrt(8 / np.sum(weights**2))  # a product of 3 cosines has variance 1/8
    phases = rng.uniform(0, 2 * np.pi, (3, most)).astype(np.float32)
    return Field(coefficients.astype(np.float32), (phases[0], phases[1], phases[2]))
