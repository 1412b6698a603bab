"""Read NIfTI files, check what they hold, and write labels in an image's geometry."""

import gzip
import math
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from glob import escape
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
"""Least and most plausible in-plane spacing."""
SLICE_MM = (2.0, 20.0)
"""Least and most plausible spacing from the middle of one slice to the middle of the next."""
TOLERANCE = 0.01
"""Largest relative difference between spacings that should be equal."""
UNITS = {0: "unknown", 2: "mm", 1: "metre", 3: "micrometre"}
"""Names of NIfTI's spatial units. M&Ms-2 leaves the unit unknown and means mm."""
TRUSTED_UNITS = ("unknown", "mm")
MOST_VOXELS = 512 * 512 * 512
"""Most voxels of a frame. A larger one is a broken header or no short-axis stack, and decoding it
could exhaust the memory."""
MOST_INTENSITY = 1e15
"""Intensities below it can be squared and summed in float32."""
CHUNK = 2**20
"""Bytes to read at a time."""
GEOMETRY = (
    *("pixdim", "xyzt_units", "toffset", "dim_info", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Header fields that say where voxels lie in space and time."""
Found = Iterator[tuple[str, str]]
"""Faults as pairs of code and message."""


@dataclass(frozen=True)
class Stack:
    """A decoded file."""

    data: np.ndarray
    """(i, j, k) float32, or (i, j, k, t) of a cine."""
    affine: np.ndarray
    """(4, 4), as in the file or turned into LPS by whoever knows its axes."""
    header: Any
    """The header as it is in the file, see :func:`raw_header`."""
    image: Any
    """nibabel's image, for its geometry."""

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

    The file must have three axes; with ``frame_index`` it must have four, of which that frame is
    taken, and with ``cine`` it may have four, of which all frames are taken.

    Raises
    ------
    FaultError
        The file is missing or unreadable, has other axes, lacks the frame, or is too large.
    """
    check_there(path)
    try:
        with LoggingOutputSuppressor(), np.errstate(all="ignore"):
            header, image = raw_header(path), nib.load(path)
            _check_shape(path, image.shape, frame_index, cine=cine)
            data = np.asarray(image.get_fdata(caching="unchanged"))
            with ImageOpener(path) as file:
                while file.read(CHUNK):  # gzip compares its checksum only at the end
                    pass
            if frame_index is not None:
                data = data[..., frame_index]  # (i, j, k, t) -> (i, j, k)
            return Stack(data.astype(np.float32), np.array(image.affine, float), header, image)
    except FaultError:
        raise
    except Exception as error:  # broken bytes can raise anything from EOFError to MemoryError
        raise _unreadable(path, error) from None


def check_there(path: Path, frame_index: int | None = None) -> None:
    """Raise a :class:`FaultError` where a file is missing or its header says it lacks the frame."""
    try:
        text = "" if stat.S_ISREG(path.stat().st_mode) else "missing, as this is no file"
    except (FileNotFoundError, NotADirectoryError):
        pattern = escape(path.stem.split(".")[0]) + ".*"
        near = sorted(other.name for other in path.parent.glob(pattern))
        text = f"missing; found {near[0]}" if near else "missing"
    except OSError as error:
        text = f"missing ({error.strerror})"
    if text:
        raise FaultError(Fault("file-missing", text, path=path))
    if frame_index is not None:
        _check_shape(path, raw_header(path).get_data_shape(), frame_index)


def _check_shape(
    path: Path, shape: tuple[int, ...], frame_index: int | None, *, cine: bool = False
) -> None:
    code, text = "", f"has shape {shape}"
    if frame_index is not None:
        if len(shape) != 4 or 0 in shape or frame_index >= shape[3]:
            code = "frame-missing"
            text += f", frames 0 to {shape[3] - 1}" if len(shape) == 4 else ""
            text += f", expected four dimensions (x, y, z, time) and frame {frame_index} among them"
    elif len(shape) not in ((3, 4) if cine else (3,)) or 0 in shape:
        code, text = "not-3d", f"{text}, expected three{' or four' if cine else ''} dimensions"
    if not code and math.prod(shape[:3]) > MOST_VOXELS:
        code, text = "file-huge", f"{text}, expected a stack of slices"
    if code:
        raise FaultError(Fault(code, text, path=path))


def doubt_affine(stack: Stack) -> Found:
    """Yield a fault where the affine does not say where voxels lie."""
    if stack.spacing_mm is None:
        yield "affine-degenerate", "the affine is degenerate, spacing and orientation are unknown"


def doubt_intensities(image: np.ndarray) -> Found:
    """Yield a fault where intensities are not finite or all equal."""
    if bad := int(np.count_nonzero(~(np.abs(image) < MOST_INTENSITY))):
        text = f"{bad} values are NaN or infinite, or beyond {MOST_INTENSITY:g}"
        yield "image-not-finite", f"{text}, expected finite intensities"
    elif image.min() == image.max():
        yield "image-constant", f"every value is {image.flat[0]:g}, expected an image"


def doubt_header(stack: Stack) -> Found:
    """Yield faults of a header whose spacing or unit of length cannot be trusted."""
    unit = UNITS.get(code := int(stack.header["xyzt_units"]) % 8, f"code {code}")
    pixdim = np.abs(stack.header["pixdim"][1:4].astype(float))
    found, spacing_mm = f"pixdim is {by(pixdim)}", stack.spacing_mm
    if unit not in TRUSTED_UNITS:
        yield "spacing-unit", f"the header's unit of length is {unit}, expected mm"
    if not (np.isfinite(pixdim).all() and pixdim.all()):
        yield "spacing-header", f"{found}, expected a spacing above zero along every axis"
    elif (pixdim == 1).all() and not (stack.header["qform_code"] or stack.header["sform_code"]):
        text = f"{found} and neither qform nor sform is set, expected a header filled in"
        yield "spacing-header", text
    elif spacing_mm is not None and not np.allclose(pixdim, spacing_mm, rtol=TOLERANCE, atol=0):
        text = f"{found}, but the affine's spacing is {by(spacing_mm)}, expected one and the same"
        yield "spacing-header", text


def doubt_spacing(spacing_mm: np.ndarray) -> Found:
    """Yield faults of a spacing (3,) that is implausible for short-axis slices."""
    for code, name, values, (low, high) in (
        ("spacing-in-plane", "in-plane spacing", spacing_mm[:2], IN_PLANE_MM),
        ("spacing-slice", "spacing of slices (the third axis)", spacing_mm[2:], SLICE_MM),
    ):
        if not ((low <= values) & (values <= high)).all():
            yield code, f"the {name} is {by(values)} mm, expected {low:g} to {high:g} mm"


def count_frames(path: Path) -> int:
    """Return the number of frames in a file's header; 1 where the header cannot be read."""
    try:
        shape = raw_header(path).get_data_shape()
    except FaultError:  # reported when the file is read
        return 1
    return int(shape[3]) if len(shape) == 4 else 1


def raw_header(path: Path) -> Any:
    """Return the header as it is in the file; nibabel's own reader replaces a spacing of 0 by 1.

    Raises
    ------
    FaultError
        The file is not NIfTI.
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
    """Return a spacing as text, such as ``1.25 × 1.25 × 10``."""
    return " × ".join(f"{value:.4g}" for value in spacing)


def write_labels(labels: np.ndarray, like: Any, label_map: Mapping[int, int], path: Path) -> None:
    """Write labels as uint8 in the geometry of an image.

    Parameters
    ----------
    labels
        Canonical labels in the shape of ``like``.
    like
        nibabel's image. Only its geometry is copied: its header may also hold a patient's name.
    label_map
        Canonical label of each value to write, as in :class:`cardiac.datasets.Case`.
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
