"""Check that the network would see a heart as it sees others: not turned, not mirrored."""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from cardiac.nifti import Found
from cardiac.view import IMAGE_DOWN, IMAGE_RIGHT, in_plane_orientation, to_view, view_spacing_mm
from common.labels import LV, RV

USUAL_DEG = -17.0
"""Median direction from LV to RV in ACDC and M&Ms: to the left (0°) and a little down."""
MOST_OFF_DEG = 95.0
"""Largest deviation of one case from it; at most 88° in real data."""
MOST_MEDIAN_OFF_DEG = 45.0
"""Largest deviation of a site's median from it; 4° in ACDC and M&Ms."""
CLEAR = 0.2
"""Least lead of the best way to turn a slice over the next; 0.35 for a diagonal affine."""
OBLIQUE = 0.95
"""Largest cosine between an affine's and the scanner's axes at which it is taken as oblique."""
BASE_LARGER = 1.3
"""Least ratio of areas by which base and apex are told apart."""
HINT = (
    "if the affines hold RAS axes, as those of dcm2niix do, set affine-axes to RAS; otherwise, did "
    "the affine turn with the pixels?"
)


def check_affine(affine: np.ndarray) -> Found:
    """Yield a fault where another way to turn the slices would be about as good."""
    directions = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    right, down = np.abs(directions.T @ IMAGE_RIGHT), np.abs(directions.T @ IMAGE_DOWN)
    if abs(right[0] + down[1] - right[1] - down[0]) < CLEAR:
        text = "the slices' axes lie midway between the standard view's"
        yield "view-unsure", f"{text}, so patients may come out turned by 90° against each other"


def check_view(labels: np.ndarray, affine: np.ndarray) -> Found:
    """Yield a fault where the network would see a heart (i, j, k) turned or mirrored."""
    angle = rv_direction_deg(labels, affine)
    if angle is not None and abs(_turn(angle - USUAL_DEG)) > MOST_OFF_DEG:
        yield "view-turned", f"RV lies {_where(angle)} LV, expected to its left; {HINT}"
    if is_mirrored(labels, affine):
        text = "the affine and the way from base to apex are those of a heart's mirror image"
        yield "view-mirrored", f"{text}; {HINT}"


def check_most(angles_deg: Sequence[float]) -> Found:
    """Yield a fault where most cases are turned, but each too little for :func:`check_view`."""
    off = float(np.median([_turn(angle - USUAL_DEG) for angle in angles_deg]))
    if MOST_MEDIAN_OFF_DEG < abs(off) <= MOST_OFF_DEG:
        text = f"in most cases RV lies {off:+.0f}° from where it does elsewhere"
        yield "view-turned", f"{text}, {_where(off + USUAL_DEG)} LV; {HINT}"


def rv_direction_deg(labels: np.ndarray, affine: np.ndarray) -> float | None:
    """Return the direction from LV to RV in the network's view: 0 left, 90 above, −90 below.

    None is returned where one of them is missing.
    """
    if not ((labels == LV).any() and (labels == RV).any()):
        return None
    view = to_view(labels, affine)  # (i, j, k) -> (z, H, W)
    lv, rv = (np.array(ndimage.center_of_mass(view == s)) for s in (LV, RV))
    _, down, right = (rv - lv) * view_spacing_mm(affine)
    return float(np.degrees(np.arctan2(-down, -right)))


def is_mirrored(labels: np.ndarray, affine: np.ndarray) -> bool:
    """Return whether the view's right and down and the way to the apex are a mirrored triple.

    Only oblique affines can tell: an affine along the scanner's axes has lost the orientation.
    """
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if (np.abs(axes).max(axis=0) > OBLIQUE).all():
        return False
    view = np.zeros((3, 3))
    for axis, (place, sign) in enumerate(in_plane_orientation(affine)):
        view[:, int(place)] = axes[:, axis] * sign
    view[:, 2] *= base_to_apex(labels)
    return bool(np.linalg.det(view) > 0)  # right × down points from apex to base


def base_to_apex(labels: np.ndarray) -> float:
    """Return +1 where slices run from base to apex, −1 for the reverse, 0 where it is unclear."""
    area = np.count_nonzero(labels, axis=(0, 1))
    area = area[area > 0]
    if len(area) < 4:
        return 0.0
    half = len(area) // 2
    ratio = float(area[:half].sum() / area[-half:].sum())
    return 1.0 if ratio > BASE_LARGER else -1.0 if ratio < 1 / BASE_LARGER else 0.0


def _turn(degrees: float) -> float:
    return (degrees + 180) % 360 - 180


def _where(degrees: float) -> str:
    names = ("to the left of", "above", "to the right of", "below")
    return names[round(_turn(degrees) / 90) % 4]
