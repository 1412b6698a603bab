"""Cut small pictures from a case, of which thousands fit into memory."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from cardiac.pictures import to_grey
from cardiac.view import to_view

SIDE = 104
"""Pixels on the side of a thumbnail."""
WINDOW_MM = 160.0
"""Side of a thumbnail in the patient, with the heart in its middle."""


@dataclass(frozen=True)
class Thumbnails:
    """Slices at a sixth, half and five sixths of the heart."""

    grey: np.ndarray
    """(3, SIDE, SIDE) uint8 intensities."""
    label: np.ndarray
    """(3, SIDE, SIDE) uint8 canonical labels."""


def thumbnails(
    image: np.ndarray, label: np.ndarray | None, affine: np.ndarray | None
) -> Thumbnails:
    """Cut three slices of an image (i, j, k) around its label, or around its middle without one.

    They are turned into the network's view, or left as stored where there is no affine.
    """
    if label is None or label.shape != image.shape:
        label = np.zeros(image.shape, np.uint8)
    labelled = np.argwhere(label)
    if len(labelled):
        low, high = labelled.min(axis=0), labelled.max(axis=0) + 1
    else:
        low, high = np.zeros(3, int), np.array(image.shape)
    centre = (low + high)[:2] / 2
    depth = low[2] + ((high - low)[2] * np.array([1, 3, 5]) // 6)
    mm = np.ones(2) if affine is None else np.linalg.norm(affine[:3, :2], axis=0)
    half = np.minimum(WINDOW_MM / mm, np.max(image.shape[:2] * mm) / mm) / 2  # in pixels
    box = (*(centre - half), *(centre + half))
    grey = _cut(to_grey(image[..., depth]), box, Image.Resampling.BILINEAR)
    structures = _cut(label[..., depth], box, Image.Resampling.NEAREST)
    turn = np.eye(4) if affine is None else affine
    return Thumbnails(to_view(grey, turn), to_view(structures, turn))


def _cut(slices: np.ndarray, box: tuple[float, ...], how: Image.Resampling) -> np.ndarray:
    """Resample the window (i0, j0, i1, j1) of each slice to SIDE × SIDE; black beyond the slice."""
    low_i, low_j, high_i, high_j = box
    step_i, step_j = (high_i - low_i) / SIDE, (high_j - low_j) / SIDE
    cut = []
    for index in range(slices.shape[2]):
        picture = Image.fromarray(np.ascontiguousarray(slices[..., index]))  # x is j, y is i
        window = picture.transform(
            (SIDE, SIDE), Image.Transform.AFFINE, (step_j, 0, low_j, 0, step_i, low_i), resample=how
        )
        cut.append(np.asarray(window))
    return np.stack(cut, axis=2)
