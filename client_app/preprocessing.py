"""From NIfTI files to slices of one orientation, spacing and intensity scale, once and cached."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from monai.transforms import Compose, Transform
from torch import Tensor

from client_app.datasets import Case
from client_app.volume_cache import VolumeCache, item_hash
from common.errors import UserError
from common.labels import NUM_CLASSES

VERSION = 1
"""Part of the cache key; raise it when the meaning of what is cached changes."""

# In-plane reference directions of the standard short-axis view: RV left, lungs above. The
# affines of ACDC and M&Ms-2 hold the scanner's LPS axes (+x left, +y posterior, +z superior),
# although NIfTI means RAS; measured on the published files.
IMAGE_RIGHT = np.array([0.85, 0.5, 0.0])
IMAGE_DOWN = np.array([-0.375, 0.375, -0.85])

CLIP_PERCENTILES = (0.5, 99.5)


class Volume(dict[str, Tensor]):
    """One frame, ready for the network.

    Keys
    ----
    image : float32 (z, 1, h, w)
        Standardised intensities at the network's in-plane spacing.
    label : uint8 (z, 1, h, w)
        Canonical labels on the same grid.
    native_label : uint8 (z, H, W)
        Canonical labels on the file's own grid, in the standard view; what Dice is measured on.
    native_spacing_mm : float32 (3,)
        Spacing of that grid along (z, H, W).
    """


def in_plane_orientation(affine: np.ndarray) -> np.ndarray:
    """Find how to turn an array (i, j, k) so that its slices show the standard view.

    Parameters
    ----------
    affine
        (4, 4) of the NIfTI file. The third axis is taken to be the slice axis, as it is in every
        short-axis data set; choosing it by the closest patient axis would go wrong at 45°.

    Returns
    -------
    ndarray
        A nibabel orientation (3, 2): the axis 0 of the result goes to the right of the view,
        axis 1 goes down, axis 2 is unchanged.
    """
    directions = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    right, down = directions.T @ IMAGE_RIGHT, directions.T @ IMAGE_DOWN
    if abs(right[0]) + abs(down[1]) >= abs(right[1]) + abs(down[0]):
        return np.array([[0, np.sign(right[0]) or 1], [1, np.sign(down[1]) or 1], [2, 1]])
    return np.array([[1, np.sign(down[0]) or 1], [0, np.sign(right[1]) or 1], [2, 1]])


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3-D NIfTI file.

    Returns
    -------
    data : ndarray (i, j, k), float64
    affine : ndarray (4, 4)

    Raises
    ------
    UserError
        The file cannot be read to its end, is not 3-D or its affine is degenerate.
    """
    try:
        image = nib.load(path)
        data = np.asarray(image.get_fdata(caching="unchanged"))
        affine = np.asarray(image.affine)
    except Exception as error:  # from EOFError to MemoryError, as the bytes will have it
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{path}: cannot be read as NIfTI ({reason})") from None
    if data.ndim != 3 or 0 in data.shape:
        raise UserError(f"{path}: has shape {data.shape}, expected three dimensions")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise UserError(f"{path}: the affine is degenerate, spacing and orientation are unknown")
    return data, affine


def load_frame(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read and check a case in the standard view.

    Returns
    -------
    image : ndarray (z, H, W), float32
    label : ndarray (z, H, W), uint8, canonical labels
    spacing_mm : ndarray (3,) along (z, H, W)

    Raises
    ------
    UserError
        A file is unreadable, shapes differ, a label value is unknown, an intensity is not finite
        or all are equal.
    """
    image, affine = read_nifti(case.image)
    label, _ = read_nifti(case.label)
    if image.shape != label.shape:
        raise UserError(f"{case.label}: shape {label.shape} differs from the image's {image.shape}")
    if bad := int(np.count_nonzero(~np.isfinite(image))):
        raise UserError(f"{case.image}: {bad} values are NaN or infinite")
    if image.min() == image.max():
        raise UserError(f"{case.image}: every value is {image.flat[0]:g}, expected an image")
    values = np.unique(label)
    if unknown := [f"{v:g}" for v in values if v not in case.label_map]:
        raise UserError(
            f"{case.label}: label value {', '.join(unknown)} is unknown; "
            f"expected {sorted(case.label_map)}"
        )
    canonical = np.zeros(label.shape, np.uint8)
    for value in values:
        canonical[label == value] = case.label_map[int(value)]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    orientation = in_plane_orientation(affine)
    to_view = [int(np.flatnonzero(orientation[:, 0] == axis)[0]) for axis in (2, 1, 0)]

    def turn(array: np.ndarray) -> np.ndarray:
        turned: np.ndarray = nib.orientations.apply_orientation(array, orientation)
        view: np.ndarray = turned.transpose(2, 1, 0)  # (right, down, k) -> (z, H, W)
        return np.ascontiguousarray(view)

    return turn(image).astype(np.float32), turn(canonical), spacing[to_view].astype(np.float32)


def standardise(image: np.ndarray) -> np.ndarray:
    """Clip a volume at its 0.5th and 99.5th percentile and give it mean 0 and deviation 1."""
    low, high = np.percentile(image, CLIP_PERCENTILES)
    clipped = np.clip(image, low, high) if high > low else image
    standard: np.ndarray = (clipped - clipped.mean()) / max(float(clipped.std()), 1e-6)
    return standard.astype(np.float32)


def resample(slices: Tensor, size: Sequence[int]) -> Tensor:
    """Resample in plane, (z, c, h, w) -> (z, c, *size), with anti-aliasing."""
    if tuple(slices.shape[-2:]) == tuple(size):
        return slices
    return F.interpolate(slices, list(size), mode="bilinear", antialias=True, align_corners=False)


def resample_labels(label: Tensor, size: Sequence[int]) -> Tensor:
    """Resample labels (z, h, w) through their indicator functions -> uint8 (z, *size)."""
    indicators = F.one_hot(label.long(), NUM_CLASSES).permute(0, 3, 1, 2).float()
    return resample(indicators, size).argmax(1).to(torch.uint8)


def network_size(size: Sequence[int], spacing_mm: Sequence[float], target_mm: float) -> list[int]:
    """Return the (h, w) of a slice of native ``size`` and ``spacing_mm`` at ``target_mm``."""
    return [max(1, round(n * mm / target_mm)) for n, mm in zip(size, spacing_mm, strict=True)]


class _Prepare(Transform):  # type: ignore[misc]
    """Read one case and prepare it; the deterministic part that is cached."""

    def __init__(self, spacing_mm: float) -> None:
        self.spacing_mm = spacing_mm

    def __call__(self, item: dict[str, Any]) -> dict[str, Tensor]:
        case = Case(
            item["patient"],
            item["frame"],
            Path(item["image"]),
            Path(item["label"]),
            {int(value): label for value, label in item["label_map"].items()},
            {},
        )
        image, label, native_mm = load_frame(case)
        size = network_size(image.shape[1:], native_mm[1:].tolist(), self.spacing_mm)
        native_label = torch.from_numpy(label)
        return {
            "image": resample(torch.from_numpy(standardise(image))[:, None], size),
            "label": resample_labels(native_label, size)[:, None],
            "native_label": native_label,
            "native_spacing_mm": torch.from_numpy(native_mm),
        }


def volumes(cases: Iterable[Case], spacing_mm: float, cache_dir: Path | None) -> VolumeCache:
    """Return the prepared volumes of ``cases``, computed once and kept in ``cache_dir``.

    The cache key holds all that a volume depends on: the files with their size and time, the
    label map, the spacing and the version of this code.

    Parameters
    ----------
    cases
        What to read.
    spacing_mm
        In-plane spacing of the network's grid.
    cache_dir
        Where to keep prepared volumes; None to compute them at every access.
    """
    items = [
        {
            "patient": case.patient,
            "frame": case.frame,
            "image": str(case.image),
            "label": str(case.label),
            "label_map": {str(value): label for value, label in case.label_map.items()},
            "stamp": [_stamp(case.image), _stamp(case.label)],
            "prepare": [VERSION, spacing_mm],
        }
        for case in cases
    ]
    return VolumeCache(items, Compose([_Prepare(spacing_mm)]), cache_dir, hash_func=item_hash)


def load_volume(dataset: VolumeCache, index: int) -> Volume:
    """Return one prepared volume.

    Raises
    ------
    UserError
        The case's files are at fault (see :func:`load_frame`).
    """
    try:
        return Volume(dataset[index])
    except RuntimeError as error:  # MONAI wraps what a transform raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def _stamp(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
