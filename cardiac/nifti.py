"""NIfTI files: read whole, their spacing doubted, labels written in another file's geometry."""

import gzip
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.openers import ImageOpener

from cardiac.faults import Fault, FaultError
from common.files import replace_file
from common.labels import NUM_CLASSES

IN_PLANE_MM = (0.5, 3.0)
SLICE_MM = (2.0, 20.0)
"""What short-axis spacings lie within; slices count from the middle of one to the next."""
TOLERANCE = 0.01
"""How far, relatively, the pixdim and the affine of a header may differ."""
UNITS = {0: "unknown", 2: "mm", 1: "metre", 3: "micrometre"}
"""Names of NIfTI's spatial units; M&Ms-2 leaves them unknown and means mm."""
TRUSTED_UNITS = ("unknown", "mm")
MOST_VOXELS = 512 * 512 * 512
"""A header that promises more is broken, or is not a short-axis stack; decoding it would swap."""
GEOMETRY = (
    *("pixdim", "xyzt_units", "toffset", "dim_info", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Header fields that say where voxels lie in space and time."""


Found = Iterator[tuple[str, str]]
"""Codes and messages of faults."""


@dataclass(frozen=True)
class Stack:
    """A decoded file.

    Attributes
    ----------
    data
        (i, j, k) float32; (i, j, k, t) where four axes were accepted and found.
    affine
        (4, 4), into the axes that the file is said to hold.
    header
        As it is in the file; nibabel puts 1 where a spacing is 0.
    image
        As nibabel read it, for its geometry.
    """

    data: np.ndarray
    affine: np.ndarray
    header: Any
    image: Any

    @property
    def spacing_mm(self) -> np.ndarray | None:
        """Spacing (3,) along i, j, k by the affine; None where that is degenerate."""
        rotation = self.affine[:3, :3]
        if not np.isfinite(self.affine).all() or abs(np.linalg.det(rotation)) < 1e-6:
            return None
        spacing: np.ndarray = np.linalg.norm(rotation, axis=0)
        return spacing


def read_stack(path: Path, frame_index: int | None = None, *, cine: bool = False) -> Stack:
    """Read a NIfTI file to its end.

    Parameters
    ----------
    path
        A file of three axes, unless one of the next two says otherwise.
    frame_index
        Which frame to take of a file of four axes; None for a file of three.
    cine
        Whether to take all frames of a file that has four axes.

    Raises
    ------
    FaultError
        The file is missing or unreadable, has other axes or not that frame, or is too large to be
        a stack of slices.
    """
    check_there(path)
    try:
        with LoggingOutputSuppressor(), np.errstate(all="ignore"):
            header, image = raw_header(path), nib.load(path)
            _check_shape(path, image.shape, frame_index, cine=cine)
            data = np.asarray(image.get_fdata(caching="unchanged"))
            if frame_index is not None:
                data = data[..., frame_index]  # (i, j, k, t) -> (i, j, k)
            return Stack(data.astype(np.float32), np.array(image.affine, float), header, image)
    except FaultError:
        raise
    except Exception as error:  # from EOFError to MemoryError, as the bytes will have it
        raise _unreadable(path, error) from None


def check_there(path: Path, frame_index: int | None = None) -> None:
    """Refuse a file that is not there, or whose header says that it has no such frame.

    Raises
    ------
    FaultError
        See :func:`read_stack`.
    """
    if not path.is_file():
        near = sorted(other.name for other in path.parent.glob(path.name.split(".")[0] + ".*"))
        raise FaultError(
            Fault("file-missing", "missing" + (f"; found {near[0]}" if near else ""), path=path)
        )
    if frame_index is not None:
        _check_shape(path, raw_header(path).get_data_shape(), frame_index)


def _check_shape(
    path: Path, shape: tuple[int, ...], frame_index: int | None, *, cine: bool = False
) -> None:
    wrong = len(shape) not in ((3, 4) if cine else (3,)) or 0 in shape
    if frame_index is not None:
        if len(shape) != 4 or 0 in shape or frame_index >= shape[3]:
            frames = f", frames 0 to {shape[3] - 1}" if len(shape) == 4 else ""
            text = (
                f"has shape {shape}{frames}, expected four dimensions (x, y, z, time) and frame "
                f"{frame_index} among them"
            )
            raise FaultError(Fault("frame-missing", text, path=path))
    elif wrong:
        expected = "three or four" if cine else "three"
        text = f"has shape {shape}, expected {expected} dimensions"
        raise FaultError(Fault("not-3d", text, path=path))
    if math.prod(shape[:3]) > MOST_VOXELS:
        raise FaultError(
            Fault("file-huge", f"has shape {shape}, expected a stack of slices", path=path)
        )


def doubt_affine(stack: Stack) -> Found:
    """Yield a fault where an affine does not say where voxels lie."""
    if stack.spacing_mm is None:
        yield "affine-degenerate", "the affine is degenerate, spacing and orientation are unknown"


def doubt_intensities(image: np.ndarray) -> Found:
    """Yield a fault where nothing can be seen in an image."""
    if bad := int(np.count_nonzero(~np.isfinite(image))):
        yield "image-not-finite", f"{bad} values are NaN or infinite, expected finite intensities"
    elif image.min() == image.max():
        yield "image-constant", f"every value is {image.flat[0]:g}, expected an image"


def doubt_header(stack: Stack) -> Found:
    """Yield where a header's millimetres cannot be trusted; the affine must not be degenerate."""
    unit = UNITS.get(code := int(stack.header["xyzt_units"]) % 8, f"code {code}")
    pixdim = np.abs(stack.header["pixdim"][1:4].astype(float))
    found_mm, spacing_mm = f"pixdim is {by(pixdim)}", stack.spacing_mm
    if unit not in TRUSTED_UNITS:
        yield "spacing-unit", f"the header's unit of length is {unit}, expected mm"
    if not (np.isfinite(pixdim).all() and pixdim.all()):
        yield "spacing-header", f"{found_mm}, expected a spacing above zero along every axis"
    elif (pixdim == 1).all() and not (stack.header["qform_code"] or stack.header["sform_code"]):
        yield (
            "spacing-header",
            f"{found_mm} and neither qform nor sform is set, expected a header filled in",
        )
    elif spacing_mm is not None and not np.allclose(pixdim, spacing_mm, rtol=TOLERANCE, atol=0):
        yield (
            "spacing-header",
            f"{found_mm}, but the affine's spacing is {by(spacing_mm)}, expected one and the same",
        )


def doubt_spacing(spacing_mm: np.ndarray) -> Found:
    """Yield where a spacing (3,) is not that of short-axis slices."""
    for code, name, values, (low, high) in (
        ("spacing-in-plane", "in-plane spacing", spacing_mm[:2], IN_PLANE_MM),
        ("spacing-slice", "spacing of slices (the third axis)", spacing_mm[2:], SLICE_MM),
    ):
        if not ((low <= values) & (values <= high)).all():
            yield code, f"the {name} is {by(values)} mm, expected {low:g} to {high:g} mm"


def count_frames(path: Path) -> int:
    """Return how many frames a file says it has, 1 where it says nothing that can be read."""
    try:
        shape = raw_header(path).get_data_shape()
    except FaultError:  # it is said when the file is read
        return 1
    return int(shape[3]) if len(shape) == 4 else 1


def raw_header(path: Path) -> Any:
    """Return the header as it is in the file; nibabel puts 1 where a spacing is 0.

    Raises
    ------
    FaultError
        It is not NIfTI.
    """
    kinds = (nib.Nifti1Header, nib.Nifti2Header)
    try:
        with ImageOpener(path) as file:
            start = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = next(kind for kind in kinds if kind.may_contain_header(start))
        return kind.from_fileobj(BytesIO(start), check=False)
    except StopIteration:
        text = "cannot be read as NIfTI (it does not begin as one)"
        raise FaultError(Fault("file-unreadable", text, path=path)) from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> FaultError:
    reason = " ".join(f"{type(error).__name__}: {error}".split()).replace(str(path), path.name)
    return FaultError(Fault("file-unreadable", f"cannot be read as NIfTI ({reason})", path=path))


def by(spacing: np.ndarray) -> str:
    """Return a spacing for people: ``1.25 × 1.25 × 10``."""
    return " × ".join(f"{value:.4g}" for value in spacing)


def write_labels(labels: np.ndarray, like: Any, label_map: Mapping[int, int], path: Path) -> None:
    """Write labels as uint8 where another file's voxels lie.

    Parameters
    ----------
    labels
        Canonical labels on the voxels of ``like``, in its shape.
    like
        The image, as nibabel read it. Nothing but its geometry is taken over: what else a header
        may hold (a patient's name, a scaling) is not ours to copy.
    label_map
        Canonical label of each value in the file, as ``cardiac.datasets`` has it.
    path
        ``.nii.gz`` file to write.
    """
    values = np.zeros(NUM_CLASSES, np.uint8)
    for value, label in label_map.items():
        values[label] = value
    header = type(like.header)()
    for name in GEOMETRY:
        header[name] = like.header[name]
    header.set_data_dtype(np.uint8)
    image = type(like)(values[labels], like.affine, header)
    with replace_file(path) as temporary:
        temporary.write_bytes(gzip.compress(image.to_bytes(), compresslevel=6, mtime=0))
