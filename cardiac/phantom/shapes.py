"""Tissues, soft edges and smooth random textures, all in millimetres.

A shape is given by how deep a point lies inside it, so the same body can be sampled on any
scanner's grid. Coordinates broadcast: x, to the image's right, is ``(w, 1, 1)``; y, down the
image, is ``(1, h, 1)``; s, from base to apex across the slices, is ``(1, 1, z)``.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
"""Of single precision, wherever a volume is as large as a scan."""

FIELD_EXTENT_MM = 260.0


class Tissue(Enum):
    """Materials that a scanner shows each at its own brightness."""

    BLOOD = "blood"
    MYOCARDIUM = "myocardium"
    """Also stands for the other muscles."""
    FAT = "fat"
    LUNG = "lung"
    LIVER = "liver"
    BACKGROUND = "background"


Layer = tuple[Tissue, Array]
"""A tissue and the share of each voxel ``(w, h, z)`` that it takes, from 0 to 1.

Layers are laid one over the other: what comes later hides what came before.
"""


def cover(depth_mm: Array, edge_mm: float | Array) -> Array:
    """Share of a voxel that a shape fills, from 0 to 1.

    Parameters
    ----------
    depth_mm
        How far the voxel's centre lies inside the shape (negative: outside).
    edge_mm
        Width over which the edge runs from empty to full: the pixel, or more
        where the surface is slanted within the slice.
    """
    filled: Array = np.clip(depth_mm / edge_mm + np.float32(0.5), 0, 1)
    return filled


@dataclass(frozen=True)
class Field:
    """A smooth random function of position, of mean 0 and variance 1.

    A sum of products of cosines: it has no grid of its own, so ED and ES or two
    scanners see the same texture.
    """

    coefficients: Array  # (fx, fy, fs)
    phases: tuple[Array, Array, Array]

    def __call__(self, x: Array, y: Array, s: Array) -> Array:
        """Evaluate at broadcastable coordinates in mm; returns ``(w, h, z)``."""
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
