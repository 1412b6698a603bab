"""Prepare cases for the network: one orientation, spacing and intensity scale, kept in a cache."""

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import PersistentDataset
from monai.transforms import Compose, Transform
from torch import Tensor

from cardiac.case_files import read_case
from cardiac.datasets import Case
from cardiac.faults import raise_first
from cardiac.view import to_view, view_spacing_mm
from common.errors import UserError
from common.labels import NUM_CLASSES

log = logging.getLogger(__name__)

VERSION = 1
"""Part of the cache key; raise it when the meaning of what is cached changes."""
SHA256 = "sha256"
"""Key of a volume's SHA-256 in its cache file."""
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


def load_frame(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a case in the standard view.

    Returns
    -------
    image : ndarray (z, H, W), float32
    label : ndarray (z, H, W), uint8, canonical labels
    spacing_mm : ndarray (3,), float32, along (z, H, W)

    Raises
    ------
    FaultError
        The first fault of :func:`cardiac.case_files.read_case` that is an error.
    """
    files = read_case(case)
    raise_first(files.faults)
    assert files.image is not None
    assert files.canonical is not None
    affine = files.image.affine
    view = to_view(files.image.data, affine).astype(np.float32)
    return view, to_view(files.canonical, affine), view_spacing_mm(affine)


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


def network_slices(view: np.ndarray, native_mm: np.ndarray, spacing_mm: float) -> Tensor:
    """Return the network's input (z, 1, h, w) for a frame, standardised over the frame.

    Parameters
    ----------
    view
        (z, H, W) float32 intensities in the standard view.
    native_mm
        Spacing (3,) of ``view`` along (z, H, W).
    spacing_mm
        In-plane spacing of the network's grid.
    """
    size = network_size(view.shape[1:], native_mm[1:].tolist(), spacing_mm)
    return resample(torch.from_numpy(standardise(view))[:, None], size)


class _Prepare(Transform):  # type: ignore[misc]
    """Read and prepare one case."""

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
            item.get("axes", "LPS"),
            item.get("frame_index"),
        )
        image, label, native_mm = load_frame(case)
        slices = network_slices(image, native_mm, self.spacing_mm)
        native_label = torch.from_numpy(label)
        volume = {
            "image": slices,
            "label": resample_labels(native_label, slices.shape[-2:])[:, None],
            "native_label": native_label,
            "native_spacing_mm": torch.from_numpy(native_mm),
        }
        return {**volume, SHA256: _sha256(item, volume)}


class VolumeCache(PersistentDataset):  # type: ignore[misc]
    """MONAI's dataset on disk, whose files hold the SHA-256 of their volume.

    A file that was damaged, half-written or exchanged is made anew from the case.
    """

    def _cachecheck(self, item: dict[str, Any]) -> dict[str, Tensor]:
        file = self.cache_dir and self.cache_dir / f"{self.hash_func(item).decode()}.pt"
        if file and file.is_file():
            try:
                return _verified(item, torch.load(file, weights_only=True))
            except Exception as error:  # torch raises many kinds for a broken file
                log.warning("%s is damaged and made anew (%s)", file, type(error).__name__)
                file.unlink(missing_ok=True)
        return _verified(item, super()._cachecheck(item))


def _verified(item: dict[str, Any], volume: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a volume without its SHA-256; raises ValueError where this is another's."""
    sha256 = volume.pop(SHA256)
    if not torch.equal(sha256, _sha256(item, volume)):
        raise ValueError("another SHA-256")
    return volume


def _sha256(item: dict[str, Any], volume: dict[str, Tensor]) -> Tensor:
    """Return the SHA-256 of an item and its volume, uint8 (32,)."""
    digest = hashlib.sha256(_item_hash(item))
    for key, tensor in sorted(volume.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.numpy().tobytes())
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)


def _item_hash(item: object) -> bytes:
    """Return the name of an item's cache file: a hash of its JSON."""
    return hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest().encode()


def volumes(cases: Iterable[Case], spacing_mm: float, cache_dir: Path | None) -> VolumeCache:
    """Return the prepared volumes of ``cases``, each computed when it is first asked for.

    They are kept in ``cache_dir``; with None they are computed at every access. The cache key
    holds all that a volume depends on: the files with their size and time, the frame of 4-D
    files, the label map, the axes, the spacing of the network's grid and ``VERSION``.
    """
    items = [
        {
            "patient": case.patient,
            "frame": case.frame,
            "image": str(case.image),
            "label": str(case.label),
            "label_map": {str(value): label for value, label in case.label_map.items()},
            "stamp": [stamp(case.image), stamp(case.label)],
            "prepare": [VERSION, spacing_mm],
            # Left out at their defaults, so that older caches stay valid
            **({} if case.axes == "LPS" else {"axes": case.axes}),
            **({} if case.frame_index is None else {"frame_index": case.frame_index}),
        }
        for case in cases
    ]
    return VolumeCache(items, Compose([_Prepare(spacing_mm)]), cache_dir, hash_func=_item_hash)


def load_volume(dataset: VolumeCache, index: int) -> Volume:
    """Return one prepared volume.

    Raises
    ------
    UserError
        The case's files have a fault, see :func:`load_frame`.
    """
    try:
        return Volume(dataset[index])
    except RuntimeError as error:  # MONAI's wrapper around what a transform raises
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, UserError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise cause from None


def stamp(path: Path) -> list[int]:
    """Return a file's size and time of change, which differ when the file was replaced."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
