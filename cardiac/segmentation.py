"""Segment one scan, a frame or a cine, on the voxels of its file."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import KeepLargestConnectedComponent
from torch import nn

from cardiac.evaluation import predict_labels
from cardiac.faults import Fault, raise_first
from cardiac.nifti import (
    doubt_affine,
    doubt_header,
    doubt_intensities,
    doubt_spacing,
    read_stack,
    write_labels,
)
from cardiac.preprocessing import network_slices
from cardiac.view import from_view, lps_affine, to_view, view_spacing_mm
from common.errors import UserError
from common.labels import NUM_CLASSES

SLICES_AT_ONCE = 32
"""Most slices in one pass of the network, which bounds its memory."""


@dataclass(frozen=True)
class Scan:
    """A short-axis image: one frame, or a cine of many."""

    path: Path
    data: np.ndarray
    """(i, j, k, t) float32 intensities as stored; t is 1 where the file has three axes."""
    image: Any
    """nibabel's image, for its geometry."""
    axes: str = "LPS"
    """Axes that the file's affine leads into, ``LPS`` or ``RAS``; see ``cardiac.view``."""

    @property
    def frames(self) -> int:
        """The number of frames, t."""
        return int(self.data.shape[3])

    @property
    def affine(self) -> np.ndarray:
        """The affine (4, 4) of the first three axes, into LPS."""
        return lps_affine(np.asarray(self.image.affine), self.axes)

    @property
    def spacing_mm(self) -> np.ndarray:
        """The spacing (3,) of the standard view along (z, H, W)."""
        return view_spacing_mm(self.affine)

    def view(self, frame: int) -> np.ndarray:
        """Return a frame's intensities (z, H, W) in the standard view."""
        return to_view(self.data[..., frame], self.affine)

    def view_of(self, labels: np.ndarray, frame: int) -> np.ndarray:
        """Return one frame of labels (i, j, k, t) in the standard view (z, H, W)."""
        return to_view(labels[..., frame], self.affine)


def read_scan(path: Path, *, any_spacing: bool = False, axes: str = "LPS") -> Scan:
    """Read an image to segment, of three axes or of four where the last is time.

    Raises
    ------
    UserError
        The file is unreadable, a frame shows nothing, or the spacing is implausible and
        ``any_spacing`` does not accept it.
    """
    stack = read_stack(path, cine=True)
    raise_first(Fault(code, text, path=path) for code, text in doubt_affine(stack))
    if not any_spacing:
        assert stack.spacing_mm is not None
        for _, text in chain(doubt_header(stack), doubt_spacing(stack.spacing_mm)):
            raise UserError(f"{path}: {text}; --any-spacing takes it as it is")
    cine = stack.data.reshape(*stack.data.shape[:3], -1)  # (i, j, k[, t]) -> (i, j, k, t)
    for frame in range(cine.shape[3]):
        which = f"frame {frame + 1}: " if stack.data.ndim == 4 else ""
        faults = doubt_intensities(cine[..., frame])
        raise_first(Fault(code, which + text, path=path) for code, text in faults)
    return Scan(path, cine, stack.image, axes)


def segment(
    model: nn.Module,
    scan: Scan,
    spacing_mm: float,
    device: torch.device,
    *,
    largest: bool = False,
    advance: Callable[[], None] | None = None,
) -> np.ndarray:
    """Return canonical labels (i, j, k, t) uint8 of a scan, each frame segmented by itself.

    The computation is that of :func:`cardiac.evaluation.evaluate`.

    Parameters
    ----------
    model
        The network; moved to ``device`` and left in evaluation mode.
    scan
        The image.
    spacing_mm
        In-plane spacing of the network's grid.
    device
        Device to compute on.
    largest
        Whether to keep only the largest connected part of each structure.
    advance
        Called after every frame.
    """
    model.to(device).eval()
    labels = np.zeros(scan.data.shape, np.uint8)
    for frame in range(scan.frames):
        view = scan.view(frame)
        slices = network_slices(view, scan.spacing_mm, spacing_mm)  # (z, H, W) -> (z, 1, h, w)
        parts = torch.split(slices, SLICES_AT_ONCE)
        found = torch.cat([predict_labels(model, part, view.shape[1:], device) for part in parts])
        kept = largest_parts(found.numpy()) if largest else found.numpy()
        labels[..., frame] = from_view(kept, scan.affine)  # (z, H, W) -> (i, j, k)
        if advance:
            advance()
    return labels


def largest_parts(labels: np.ndarray) -> np.ndarray:
    """Keep the largest connected part of each structure in 3-D; the rest becomes background.

    Voxels that share a face, an edge or a corner belong to one part.
    """
    keep = KeepLargestConnectedComponent(range(1, NUM_CLASSES), connectivity=3)
    kept = keep(torch.from_numpy(labels)[None])[0]  # (z, H, W) -> (1, z, H, W) and back
    return np.asarray(kept, np.uint8)


def write_segmentation(
    scan: Scan, labels: np.ndarray, label_map: Mapping[int, int], path: Path
) -> None:
    """Write labels (i, j, k, t) in the shape and geometry of the scan's file."""
    write_labels(labels.reshape(scan.image.shape), scan.image, label_map, path)
