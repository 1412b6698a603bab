"""What every heart's label has in common, measured on arrays of canonical labels (i, j, k).

In short-axis slices MYO encloses LV, and RV touches MYO on one side. On all labels of ACDC and
M&Ms, 98 to 100 % of the rim of LV is MYO, and 11 to 43 % of the rim of RV.
"""

import math
from collections.abc import Iterator
from itertools import permutations

import numpy as np
from scipy import ndimage

from cardiac.clinical import volumes_ml
from common.labels import LV, MYO, NUM_CLASSES, RV, STRUCTURES

IN_SLICE = np.ones((3, 3, 1), bool)
ALL_AROUND = np.ones((3, 3, 3), bool)
CAVITY_ENCLOSED = 0.8
LEAST_LV_COVER = 0.7
LEAST_RV_CONTACT = 0.03
LARGE_PIECE = 0.15
"""Share of a structure in its second largest piece; at most 0.05 in real labels."""
FAR_MM = 30.0
MOST_HOLES = 0.03
"""Unlabelled share enclosed by labels; at most 0.01 in real ones."""
VOLUME_ML = {"LV": (5.0, 500.0), "MYO": (20.0, 500.0), "RV": (5.0, 500.0)}
"""From end-systole of a small heart to end-diastole of a failing one (real: 10 to 354 ml)."""


def rims(labels: np.ndarray) -> np.ndarray:
    """Return what surrounds each structure, (4, 4): row s is the share of each label in its rim.

    Only slices that have all three structures count, where nothing is open towards base or apex;
    without any, all is zero.
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
    """Say which labels play LV, MYO and RV; None where no structure encloses another.

    Parameters
    ----------
    shares
        Of `rims`. Where the numbering is right the answer is (1, 2, 3).
    """
    lv, myo = max(permutations((LV, MYO, RV), 2), key=lambda pair: float(shares[pair]))
    if shares[lv, myo] < CAVITY_ENCLOSED:
        return None
    return lv, myo, LV + MYO + RV - lv - myo


def check_structures(labels: np.ndarray, spacing_mm: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield codes and messages of what cannot be a heart; numbering is taken to be right."""
    for name, volume in volumes_ml(labels, spacing_mm).items():
        least, most = VOLUME_ML[name]
        if not (math.isnan(volume) or least <= volume <= most):
            yield (
                "structure-volume",
                f"{name} has {volume:.3g} ml, expected {least:g} to {most:g}",
            )
    for structure, name in enumerate(STRUCTURES, start=1):
        mask = labels == structure
        if gap := missing_slices(mask):
            yield (
                "structure-gap",
                f"{name} is missing in {gap} slice(s) between others that have it",
            )
        if (piece := second_piece(mask)) > LARGE_PIECE:
            yield (
                "structure-pieces",
                f"{name} is in pieces, the second with {piece:.0%} of it, expected one piece",
            )
    if (far := farthest_piece_mm(labels > 0, spacing_mm)) > FAR_MM:
        yield "label-stray", f"a labelled piece lies {far:.0f} mm from the heart, expected none"
    if (share := holes(labels > 0)) > MOST_HOLES:
        yield (
            "label-holes",
            f"holes of {share:.1%} of the label, expected at most {MOST_HOLES:.0%}",
        )


def check_contacts(shares: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield codes and messages of structures that do not touch as they should, see `rims`."""
    if not shares.any():
        return
    if shares[LV, MYO] < LEAST_LV_COVER:
        yield (
            "lv-uncovered",
            f"{shares[LV, MYO]:.0%} of the rim of LV is MYO, expected nearly all of it",
        )
    if shares[RV, MYO] < LEAST_RV_CONTACT:
        yield (
            "rv-apart",
            f"{shares[RV, MYO]:.0%} of the rim of RV is MYO, expected a tenth at least",
        )


def missing_slices(mask: np.ndarray) -> int:
    """Count slices without the structure between ones that have it."""
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
    """Return how far, in plane, the farthest piece lies from the box around the largest one."""
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
    """Return the area enclosed by the label in its slices, as a share of the label."""
    filled = ndimage.binary_fill_holes(mask, ndimage.generate_binary_structure(2, 1)[..., None])
    return int(np.count_nonzero(filled & ~mask)) / max(1, int(np.count_nonzero(mask)))
