"""Turn a file's array into the standard short-axis view and exactly back."""

import nibabel as nib
import numpy as np

# Directions of the standard short-axis view (RV left, lungs above) in the scanner's LPS axes
# (+x left, +y posterior, +z superior). The affines of ACDC and M&Ms-2 lead into LPS, although
# NIfTI means RAS; measured on the published files.
IMAGE_RIGHT = np.array([0.85, 0.5, 0.0])
IMAGE_DOWN = np.array([-0.375, 0.375, -0.85])

TO_LPS = {"LPS": np.eye(4), "RAS": np.diag([-1.0, -1.0, 1.0, 1.0])}
"""Matrix that takes coordinates of each convention into LPS."""
AS_STORED = np.array([[0, 1], [1, 1], [2, 1]])
"""nibabel's orientation of an array that is not turned."""


def lps_affine(affine: np.ndarray, axes: str) -> np.ndarray:
    """Return an affine (4, 4) into LPS, given one into ``axes``, ``LPS`` or ``RAS``.

    NIfTI means RAS and dcm2niix writes RAS, but the public data sets hold LPS. A file does not
    say which it holds.
    """
    lps: np.ndarray = TO_LPS[axes] @ affine
    return lps


def in_plane_orientation(affine: np.ndarray) -> np.ndarray:
    """Return how to turn an array (i, j, k) so that its slices show the standard view.

    It is a nibabel orientation (3, 2): axis 0 of the turned array goes to the view's right, axis
    1 goes down, axis 2 stays. ``affine`` (4, 4) leads into LPS, see :func:`lps_affine`. The third
    axis is taken to be the slice axis, as in every short-axis data set: choosing it by the closest
    patient axis would go wrong at 45°.
    """
    directions = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    right, down = directions.T @ IMAGE_RIGHT, directions.T @ IMAGE_DOWN
    if abs(right[0]) + abs(down[1]) >= abs(right[1]) + abs(down[0]):
        return np.array([[0, np.sign(right[0]) or 1], [1, np.sign(down[1]) or 1], [2, 1]])
    return np.array([[1, np.sign(down[0]) or 1], [0, np.sign(right[1]) or 1], [2, 1]])


def to_view(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn a file's array (i, j, k) into the standard view (z, H, W)."""
    turned = nib.orientations.apply_orientation(array, in_plane_orientation(affine))
    return np.ascontiguousarray(turned.transpose(2, 1, 0))  # (right, down, k) -> (z, H, W)


def from_view(view: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn the standard view (z, H, W) back into the file's array (i, j, k)."""
    back = nib.orientations.ornt_transform(AS_STORED, in_plane_orientation(affine))
    stored = view.transpose(2, 1, 0)  # (z, H, W) -> (right, down, k)
    return np.ascontiguousarray(nib.orientations.apply_orientation(stored, back))


def view_spacing_mm(affine: np.ndarray) -> np.ndarray:
    """Return the spacing of the standard view along (z, H, W), float32."""
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = in_plane_orientation(affine)[:, 0]
    return np.array([spacing[axes == axis][0] for axis in (2, 1, 0)], np.float32)
