"""Check the grid of a short-axis stack: spacing, slices, field of view.

The limits are wider than all of ACDC and M&Ms (0.70 to 1.88 mm in plane, 5 to 10 mm between
slices, 6 to 18 slices, 220 to 380 mm of view).
"""

import numpy as np

from cardiac.nifti import Found, Stack, doubt_spacing

SLICES = (4, 25)
"""Least and largest number of slices."""
VIEW_MM = (150.0, 600.0)
"""Least and largest side of the field of view."""
UNEVEN = 0.05
"""Largest relative difference of the two in-plane spacings."""


def check_grid(shape: tuple[int, ...], spacing_mm: np.ndarray) -> Found:
    """Yield faults of a grid of ``shape`` (i, j, k) and ``spacing_mm`` (3,)."""
    if shape[2] > min(shape[:2]):
        text = "the third axis is not the shortest, expected the slices along it"
        yield "slice-axis", f"{' × '.join(map(str, shape))} voxels: {text}"
        return
    i, j, _ = (float(value) for value in spacing_mm)
    yield from doubt_spacing(spacing_mm)
    if abs(i / j - 1) > UNEVEN:
        yield "spacing-uneven", f"pixels of {i:.3g} × {j:.3g} mm, expected square ones"
    if not _within(shape[2], SLICES):
        yield "slice-count", f"{shape[2]} slice(s), {_expected(SLICES)}"
    view = sorted((shape[0] * i, shape[1] * j))
    if not (_within(view[0], VIEW_MM) and _within(view[1], VIEW_MM)):
        text = f"slices of {view[0]:.0f} × {view[1]:.0f} mm, {_expected(VIEW_MM)} mm"
        yield "field-of-view", text


def check_same_grid(image: Stack, label: Stack) -> Found:
    """Yield a fault where two affines differ by half a voxel somewhere in stacks of one shape."""
    if image.data.shape != label.data.shape or image.spacing_mm is None:
        return
    corner, apart = np.array(image.data.shape) - 1, np.abs(image.affine - label.affine)
    differs = ""
    if not (apart[:3, :3].max(axis=0) * corner <= 0.5 * image.spacing_mm).all():  # also for NaN
        differs = "spacing or directions"
    elif not (apart[:3, 3] <= 0.5 * image.spacing_mm.min()).all():
        differs = "origin"
    if differs:
        text = f"the label's affine differs from the image's in its {differs}; the image's is used"
        yield "affine-differs", text


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _expected(limits: tuple[float, float]) -> str:
    return f"expected {limits[0]:g} to {limits[1]:g}"
