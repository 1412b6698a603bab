"""Check that labels could be a heart's, on arrays of canonical labels (i, j, k).

In short-axis slices MYO encloses LV, and RV touches MYO on one side. On all labels of ACDC and
M&Ms, 98 to 100 % of the rim of LV is MYO, and 11 to 43 % of the rim of RV.
"""

import math
from itertools import permutations

import numpy as np
from scipy import ndimage

from cardiac.clinical import volumes_ml
from cardiac.nifti import Found
from common.labels import LV, MYO, NUM_CLASSES, RV, STRUCTURES

IN_SLICE = np.ones((3, 3, 1), bool)
ALL_AROUND = np.ones((3, 3, 3), bool)
CAVITY_ENCLOSED = 0.8
"""Least share of MYO in the rim of LV by which the labels' numbering is recognised."""
LEAST_LV_COVER = 0.7
"""Least share of MYO in the rim of LV."""
LEAST_RV_CONTACT = 0.03
"""Least share of MYO in the rim of RV."""
LARGE_PIECE = 0.15
"""Largest share of a structure in its second largest piece; at most 0.05 in real labels."""
FAR_MM = 30.0
"""Largest distance of a labelled piece from the heart."""
MOST_HOLES = 0.03
"""Largest unlabelled area that labels enclose, as a share of theirs; at most 0.01 in real ones."""
VOLUME_ML = {"LV": (5.0, 500.0), "MYO": (20.0, 500.0), "RV": (5.0, 500.0)}
"""Least and largest volume, from end-systole of a small heart to end-diastole of a failing one;
10 to 354 ml in real labels."""


def rims(labels: np.ndarray) -> np.ndarray:
    """Return what surrounds each structure, (4, 4): row s holds the share of each label in its rim.

    Only slices with all three structures count, as near base and apex others are open; without
    such slices all shares are zero.
    """
    per_slice = [(labels == structure).any(axis=(0, 1)) for structure in (LV, MYO, RV)]
    whole = labels[..., np.logical_and.reduce(per_slice)]  # (i, j, k) -> (i, j, some of k)
    shares = np.zeros((NUM_CLASSES, NUM_CLASSES))
    for structure in (LV, MYO, RV):
        inside = whole == structure
        rim = whole[ndimage.binary_dilation(inside, IN_SLICE) & ~inside]
        if rim.size:
            shares[structure] = np.bincount(rim, minlength=NUM_CLASSES)[:NUM_CLASSES] / rim.size
    return shares


def played_by(shares: np.ndarray) -> tuple[int, int, int] | None:
    """Return which labels are LV, MYO and RV by the shares of `rims`, (1, 2, 3) where all is right.

    None is returned where no structure encloses another.
    """
    lv, myo = max(permutations((LV, MYO, RV), 2), key=lambda pair: float(shares[pair]))
    if shares[lv, myo] < CAVITY_ENCLOSED:
        return None
    return lv, myo, LV + MYO + RV - lv - myo


def check_structures(labels: np.ndarray, spacing_mm: np.ndarray) -> Found:
    """Yield faults of structures that no heart has; each label's number is taken to be right."""
    for name, volume in volumes_ml(labels, spacing_mm).items():
        least, most = VOLUME_ML[name]
        if not (math.isnan(volume) or least <= volume <= most):
            text = f"{name} has {volume:.3g} ml, expected {least:g} to {most:g}"
            yield "structure-volume", text
    for structure, name in enumerate(STRUCTURES, start=1):
        mask = labels == structure
        if gap := missing_slices(mask):
            text = f"{name} is missing in {gap} slice(s) between others that have it"
            yield "structure-gap", text
        if (piece := second_piece(mask)) > LARGE_PIECE:
            text = f"{name} is in pieces, the second with {piece:.0%} of it, expected one piece"
            yield "structure-pieces", text
    if (far := farthest_piece_mm(labels > 0, spacing_mm)) > FAR_MM:
        yield "label-stray", f"a labelled piece lies {far:.0f} mm from the heart, expected none"
    if (share := holes(labels > 0)) > MOST_HOLES:
        yield "label-holes", f"holes of {share:.1%} of the label, expected at most {MOST_HOLES:.0%}"


def check_contacts(shares: np.ndarray) -> Found:
    """Yield faults of structures that do not touch as a heart's do, by the shares of `rims`."""
    lv, rv = shares[LV, MYO], shares[RV, MYO]
    if shares.any() and lv < LEAST_LV_COVER:
        yield "lv-uncovered", f"{lv:.0%} of the rim of LV is MYO, expected nearly all of it"
    if shares.any() and rv < LEAST_RV_CONTACT:
        yield "rv-apart", f"{rv:.0%} of the rim of RV is MYO, expected a tenth at least"


def missing_slices(mask: np.ndarray) -> int:
    """Return the number of slices without the structure between slices that have it."""
    having = np.flatnonzero(mask.any(axis=(0, 1)))
    return int(having[-1] - having[0] + 1 - len(having)) if len(having) else 0


def second_piece(mask: np.ndarray) -> float:
    """Return the share of a structure that is in its second largest piece."""
    pieces, number = ndimage.label(mask, ALL_AROUND)
    if number < 2:
        return 0.0
    sizes = np.sort(np.bincount(pieces.ravel())[1:])
    return float(sizes[-2] / sizes.sum())


def farthest_piece_mm(mask: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Return the in-plane distance of the farthest piece from the box around the largest one."""
    pieces, number = ndimage.label(mask, ALL_AROUND)
    if number < 2:
        return 0.0
    boxes = ndimage.find_objects(pieces)
    main = boxes[int(np.argmax(np.bincount(pieces.ravel())[1:]))]
    gaps_mm = [
        [
            max(box[axis].start - main[axis].stop, main[axis].start - box[axis].stop, 0)
            * float(spacing_mm[axis])
            for axis in (0, 1)
        ]
        for box in boxes
    ]
    return max(float(np.hypot(*gap)) for gap in gaps_mm)


def holes(mask: np.ndarray) -> float:
    """Return the unlabelled area that the label encloses in its slices, as a share of the label."""
    filled = ndimage.binary_fill_holes(mask, ndimage.generate_binary_structure(2, 1)[..., None])
    return int(np.count_nonzero(filled & ~mask)) / max(1, int(np.count_nonzero(mask)))
