"""Check an image's intensities, and fingerprint images to find duplicates."""

import hashlib

import numpy as np

from cardiac.nifti import Found

FEW_VALUES = 32
"""Least number of distinct intensities; ACDC and M&Ms have at least 110."""
MOST_CLIPPED = 0.25
"""Largest share of voxels at the highest intensity; data sets clipped on purpose have 2 %."""
PERCENTILES = (1, 50, 99)


def check_image(data: np.ndarray) -> Found:
    """Yield faults of intensities (i, j, k), which are finite and not all equal."""
    high = float(data.max())
    if (distinct := _distinct(data)) < FEW_VALUES:
        text = f"has {distinct} different intensities, expected at least {FEW_VALUES}"
        yield "image-few-values", f"{text}; is it a label?"
        return
    if (share := float(np.mean(data == high))) > MOST_CLIPPED:
        text = f"{share:.0%} of the voxels have the highest value {high:g}"
        yield "image-clipped", f"{text}, expected under {MOST_CLIPPED:.0%}"
    flat = np.flatnonzero(np.ptp(data, axis=(0, 1)) == 0)
    if flat.size:
        which = ", ".join(str(number + 1) for number in flat)
        yield "slice-blank", f"slice {which} of {data.shape[2]} is blank, expected an image in each"


def digest(data: np.ndarray) -> str:
    """Return a fingerprint of decoded voxels; header and compression do not matter."""
    content = np.ascontiguousarray(data) + data.dtype.type(0)  # -0 becomes 0
    shape = str(data.shape).encode()
    return hashlib.blake2b(content.tobytes() + shape, digest_size=16).hexdigest()


def ascending(data: np.ndarray) -> np.ndarray:
    """Return all voxels in order of intensity, which turning or mirroring does not change."""
    return np.sort(data, axis=None)


def quantiles(in_order: np.ndarray) -> list[float]:
    """Return the 1st, 50th and 99th percentile of values in ascending order."""
    at = [round(share / 100 * (in_order.size - 1)) for share in PERCENTILES]
    return [float(value) for value in in_order[at]]


def _distinct(data: np.ndarray) -> int:
    """Return the number of distinct values, or of those in a sample if that has enough."""
    part = np.unique(data.reshape(-1)[:: max(1, data.size // 20000)])
    return len(part) if len(part) >= FEW_VALUES else len(np.unique(data))
