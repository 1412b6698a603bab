"""One NIfTI file, with a code for each way in which it can be broken."""

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor

from cardiac.nifti import UNITS, raw_header

MOST_VOXELS = 512 * 512 * 512
"""A header that promises more is broken, or is not a short-axis stack; decoding it would swap."""


class ReadFaultError(Exception):
    """A file that cannot be looked at, with the finding's code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Stack:
    """A decoded file.

    Attributes
    ----------
    data
        (i, j, k) float32.
    affine
        (4, 4) of the header.
    pixdim_mm
        (3,) spacing as the header's pixdim has it; the affine may say otherwise.
    unit
        What the header says it is in.
    """

    data: np.ndarray
    affine: np.ndarray
    pixdim_mm: np.ndarray
    unit: str

    @property
    def spacing_mm(self) -> np.ndarray | None:
        """Spacing (3,) along i, j, k by the affine; None where that is degenerate."""
        rotation = self.affine[:3, :3]
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(rotation)) < 1e-6:
            return None
        spacing: np.ndarray = np.linalg.norm(rotation, axis=0)
        return spacing


def read_stack(path: Path, frame_index: int | None = None) -> Stack:
    """Read a 3-D NIfTI file, or one frame of a 4-D one, to its end.

    Raises
    ------
    ReadFaultError
        The file is missing or unreadable, not 3-D or without that frame, or too large to be a
        stack of slices.
    """
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob(path.name.split(".")[0] + ".*"))
        hint = f"; found {near[0]}" if near else ""
        raise ReadFaultError("file-missing", f"missing{hint}")
    try:
        with LoggingOutputSuppressor(), np.errstate(all="ignore"):
            image = nib.load(path)
            _check_shape(image.shape, frame_index)
            data = np.asarray(image.get_fdata(caching="unchanged", dtype=np.float32))
            if frame_index is not None:
                data = data[..., frame_index].copy()  # (i, j, k, t) -> (i, j, k)
            affine, raw = np.array(image.affine, float), raw_header(path)
    except ReadFaultError:
        raise
    except Exception as error:  # from EOFError to MemoryError, as the bytes will have it
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        reason = reason.replace(str(path), path.name)
        raise ReadFaultError("file-unreadable", f"cannot be read as NIfTI ({reason})") from None
    pixdim_mm = np.abs(raw["pixdim"][1:4].astype(float))
    unit = UNITS.get(code := int(raw["xyzt_units"]) % 8, f"code {code}")
    return Stack(data, affine, pixdim_mm, unit)


def _check_shape(shape: tuple[int, ...], frame_index: int | None) -> None:
    if frame_index is not None:
        if len(shape) != 4 or 0 in shape or frame_index >= shape[3]:
            raise ReadFaultError(
                "frame-missing",
                f"has shape {shape}, expected four dimensions and {frame_index} "
                "among its frames, counted from 0",
            )
    elif len(shape) != 3 or 0 in shape:
        raise ReadFaultError("not-3d", f"has shape {shape}, expected three dimensions")
    if math.prod(shape) > MOST_VOXELS:
        raise ReadFaultError("file-huge", f"has shape {shape}, expected a stack of slices")
