"""Draw a segmented study: all slices with outlines, and three slices of a cine as it beats."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cardiac.pictures import montage, overlay, to_grey
from cardiac.segmentation import Scan
from common.labels import LV

MARGIN_MM = 25.0
"""Margin that is shown around the heart."""
COLUMNS = 6
SHOWN_MM = 0.75
"""Approximate size of a screen pixel in the patient."""
LEVELS = {"base": 0.2, "middle": 0.5, "apex": 0.8}
"""Positions of the animated slices between the LV's first slice (0) and its last (1)."""


class Moment(NamedTuple):
    """One frame of a scan with the scan's labels (i, j, k, t), and a name for captions."""

    name: str
    scan: Scan
    labels: np.ndarray
    frame: int


def overlay_sheet(moments: Sequence[Moment]) -> np.ndarray:
    """Draw all slices of some frames, each frame in rows of its own, as RGB (h, w, 3)."""
    views = [moment.scan.view_of(moment.labels, moment.frame) for moment in moments]  # (z, H, W)
    sections = views
    if len({view.shape for view in views}) == 1:  # one section for all, to compare them
        sections = [np.max(views, axis=0)] * len(views)
    return montage(list(map(_frame_sheet, moments, views, sections)), 1)


def _frame_sheet(moment: Moment, labels: np.ndarray, section: np.ndarray) -> np.ndarray:
    """Draw every slice of one frame with its labels (z, H, W), cut to the labels of ``section``."""
    scan = moment.scan
    box = heart_box(section, scan.spacing_mm)
    grey = to_grey(scan.view(moment.frame)[box])
    pictures = [
        overlay(slice_, label, scale=_scale(scan))
        for slice_, label in zip(grey, labels[box], strict=True)
    ]
    captions = [f"{moment.name} slice {number + 1}".strip() for number in range(len(pictures))]
    return montage(pictures, COLUMNS, captions)


def beat_frames(scan: Scan, labels: np.ndarray, ed: int) -> list[np.ndarray]:
    """Draw three slices of every frame of a cine, all in one size and contrast.

    ``labels`` are those of the cine (i, j, k, t); the LV in frame ``ed`` determines the slices.
    """
    views = [scan.view_of(labels, frame) for frame in range(scan.frames)]  # (z, H, W)
    levels = lv_levels(views[ed])
    slices = list(levels.values())
    _, rows, columns = heart_box(np.max(views, axis=0), scan.spacing_mm)
    images = np.stack([scan.view(frame)[slices, rows, columns] for frame in range(scan.frames)])
    grey = to_grey(images)  # (t, 3, h, w), one contrast for the whole beat
    scale = _scale(scan)
    frames = []
    for number, view in enumerate(views):
        shown = zip(grey[number], view[slices, rows, columns], strict=True)
        pictures = [overlay(slice_, label, scale=scale) for slice_, label in shown]
        captions = [f"{name} (slice {index + 1})" for name, index in levels.items()]
        captions[0] = f"{number + 1:2d}/{scan.frames} {captions[0]}"
        frames.append(montage(pictures, len(pictures), captions))
    return frames


def heart_box(labels: np.ndarray, spacing_mm: np.ndarray) -> tuple[slice, slice, slice]:
    """Return the section of a frame (z, H, W) that shows all labels with ``MARGIN_MM`` in plane.

    All slices belong to it; without any label the section is the whole frame.
    """
    sides = [slice(None)]
    for axis, other in ((1, 2), (2, 1)):
        places = np.flatnonzero(labels.any(axis=(0, other)))
        margin = round(MARGIN_MM / float(spacing_mm[axis]))
        whole = not places.size
        sides.append(
            slice(None) if whole else slice(max(places[0] - margin, 0), places[-1] + margin + 1)
        )
    return sides[0], sides[1], sides[2]


def lv_levels(labels: np.ndarray) -> dict[str, int]:
    """Return the index of a slice near the base, the middle and the apex of the LV (z, H, W).

    The end with the smaller LV is called the apex, as files may begin at either end.
    """
    places = np.flatnonzero((labels == LV).any(axis=(1, 2)))
    first, last = (places[0], places[-1]) if places.size else (0, len(labels) - 1)
    found = [round(first + share * (last - first)) for share in LEVELS.values()]
    areas = np.count_nonzero(labels == LV, axis=(1, 2))
    if areas[found[0]] < areas[found[-1]]:
        found.reverse()
    return dict(zip(LEVELS, found, strict=True))


def _scale(scan: Scan) -> int:
    """Return the screen pixels on the side of an image pixel."""
    return max(1, round(float(scan.spacing_mm[1:].mean()) / SHOWN_MM))
