"""The grid of a short-axis stack: spacing, slices, field of view.

What is expected is wider than all of ACDC and M&Ms (0.70 to 1.88 mm in plane, 5 to 10 mm between
slices, 6 to 18 slices, 220 to 380 mm of view) and only warn.
"""

import numpy as np

from cardiac.nifti import Found, Stack, doubt_spacing

SLICES = (4, 25)
VIEW_MM = (150.0, 600.0)
UNEVEN = 0.05
"""Relative difference of spacings that should be one and the same."""


def check_grid(shape: tuple[int, ...], spacing_mm: np.ndarray) -> Found:
    """Yield what is wrong with a grid of ``shape`` (i, j, k) and ``spacing_mm`` (3,)."""
    sizes = " × ".join(map(str, shape))
    if shape[2] > min(shape[:2]):
        yield (
            "slice-axis",
            f"{sizes} voxels: the third axis is not the shortest, expected the slices along it",
        )
        return
    i, j, _ = (float(value) for value in spacing_mm)
    yield from doubt_spacing(spacing_mm)
    if abs(i / j - 1) > UNEVEN:
        yield "spacing-uneven", f"pixels of {i:.3g} × {j:.3g} mm, expected square ones"
    if not _within(shape[2], SLICES):
        yield "slice-count", f"{shape[2]} slice(s), {_expected(SLICES)}"
    view = sorted((shape[0] * i, shape[1] * j))
    if not (_within(view[0], VIEW_MM) and _within(view[1], VIEW_MM)):
        yield (
            "field-of-view",
            f"slices of {view[0]:.0f} × {view[1]:.0f} mm, {_expected(VIEW_MM)} mm",
        )


def check_same_grid(image: Stack, label: Stack) -> Found:
    """Yield how a label lies elsewhere than its image, where both have the same shape."""
    if (
        image.data.shape == label.data.shape
        and image.spacing_mm is not None
        and (difference := _difference(image, label))
    ):
        yield (
            "affine-differs",
            f"the label's affine differs from the image's in its {difference}; the image's is used",
        )


def _difference(image: Stack, label: Stack) -> str:
    """Name what differs between two affines: by half a voxel anywhere in the stack."""
    corner = np.array(image.data.shape) - 1
    pixel_mm = np.linalg.norm(image.affine[:3, :3], axis=0)
    directions = np.abs(image.affine - label.affine)[:3, :3].max(axis=0) * corner
    if not (directions <= 0.5 * pixel_mm).all():  # also where there is a NaN
        return "spacing or directions"
    if not (np.abs(image.affine - label.affine)[:3, 3] <= 0.5 * pixel_mm.min()).all():
        return "origin"
    return ""


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _expected(limits: tuple[float, float]) -> str:
    return f"expected {limits[0]:g} to {limits[1]:g}"
