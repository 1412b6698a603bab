"""Store slices in a scanner's order and direction, with the affine of where they lie."""

from typing import Literal

import numpy as np
import numpy.typing as npt

from cardiac.view import IMAGE_DOWN, IMAGE_RIGHT

Direction = Literal["right", "left", "down", "up"]
"""Direction of an array's axis in the standard view."""


def to_file_order(
    volume: npt.NDArray[np.generic], axes: tuple[Direction, Direction]
) -> npt.NDArray[np.generic]:
    """Turn (right, down, z) into the order in which the scanner stores it."""
    if axes[0] in ("down", "up"):
        volume = volume.swapaxes(0, 1)
    flips = tuple(axis for axis, direction in enumerate(axes) if direction in ("left", "up"))
    return np.flip(volume, flips)


def oblique_affine(
    axes: tuple[Direction, Direction],
    voxel_mm: tuple[float, float, float],
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> npt.NDArray[np.float64]:
    """Return an affine (4, 4) into LPS, as short-axis slices have it.

    Parameters
    ----------
    axes
        Directions of the array's first and second axis; the third goes from base to apex.
    voxel_mm
        Spacing along the array's axes.
    shape
        Shape of the array as stored.
    rng
        Draws how this patient's heart lies in the magnet.
    """
    tilt, centre_mm = rng.normal(0, 0.06, (2, 3)), rng.uniform(-25, 25, 3)
    right = _unit(IMAGE_RIGHT + tilt[0])
    down = IMAGE_DOWN + tilt[1]
    down = _unit(down - (down @ right) * right)
    ways = {"right": right, "left": -right, "down": down, "up": -down}
    towards_apex = -np.cross(right, down)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([ways[axes[0]], ways[axes[1]], towards_apex], axis=1) * voxel_mm
    affine[:3, 3] = centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return affine


def _unit(vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return vector / float(np.linalg.norm(vector))
