"""Images that are not what a scanner made, and how to know one again."""

import hashlib

import numpy as np

from cardiac.nifti import Found

FEW_VALUES = 32
"""Distinct intensities; ACDC and M&Ms have 110 at the least."""
MOST_CLIPPED = 0.25
"""Share of voxels at the highest intensity; data sets clipped on purpose have 2 %."""
PERCENTILES = (1, 50, 99)


def check_image(data: np.ndarray) -> Found:
    """Yield what is odd about intensities (i, j, k), which are finite and not all equal."""
    high = float(data.max())
    if (distinct := _distinct(data)) < FEW_VALUES:
        yield (
            "image-few-values",
            f"has {distinct} different intensities, expected at least {FEW_VALUES}; is it a label?",
        )
        return
    if (share := float(np.mean(data == high))) > MOST_CLIPPED:
        yield (
            "image-clipped",
            f"{share:.0%} of the voxels have the highest value {high:g}, expected under "
            f"{MOST_CLIPPED:.0%}",
        )
    flat = np.flatnonzero(np.ptp(data, axis=(0, 1)) == 0)
    if flat.size:
        which = ", ".join(str(number + 1) for number in flat)
        yield "slice-blank", f"slice {which} of {data.shape[2]} is blank, expected an image in each"


def digest(data: np.ndarray) -> str:
    """Return a fingerprint of decoded voxels, whatever their header or compression."""
    content = np.ascontiguousarray(data) + data.dtype.type(0)  # -0 becomes 0
    shape = str(data.shape).encode()
    return hashlib.blake2b(content.tobytes() + shape, digest_size=16).hexdigest()


def ascending(data: np.ndarray) -> np.ndarray:
    """Return all voxels in order of intensity; the same for an image turned or mirrored."""
    return np.sort(data, axis=None)


def quantiles(in_order: np.ndarray) -> list[float]:
    """Return the 1st, 50th and 99th percentile of what `ascending` returned."""
    at = [round(share / 100 * (in_order.size - 1)) for share in PERCENTILES]
    return [float(value) for value in in_order[at]]


def _distinct(data: np.ndarray) -> int:
    """Count different values; a part of the voxels is enough to see many."""
    part = np.unique(data.reshape(-1)[:: max(1, data.size // 20000)])
    return len(part) if len(part) >= FEW_VALUES else len(np.unique(data))
