"""NIfTI files: read whole, their spacing doubted, labels written in another file's geometry."""

import gzip
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

from common.errors import UserError
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
GEOMETRY = (
    *("pixdim", "xyzt_units", "toffset", "dim_info", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Header fields that say where voxels lie in space and time."""


def read_image(path: Path, dimensions: Mapping[int, str]) -> tuple[np.ndarray, Any]:
    """Read a NIfTI file.

    Parameters
    ----------
    path
        The file.
    dimensions
        Numbers of axes that are accepted, with their names.

    Returns
    -------
    data : ndarray, float64
    image : nibabel's, for its header and affine

    Raises
    ------
    UserError
        The file cannot be read to its end, has other dimensions or its affine is degenerate.
    """
    try:
        image = nib.load(path)
        data = np.asarray(image.get_fdata(caching="unchanged"))
        affine = np.asarray(image.affine)
    except Exception as error:  # from EOFError to MemoryError, as the bytes will have it
        raise _unreadable(path, error) from None
    if data.ndim not in dimensions or 0 in data.shape:
        expected = " or ".join(dimensions.values())
        raise UserError(f"{path}: has shape {data.shape}, expected {expected} dimensions")
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-6:
        raise UserError(f"{path}: the affine is degenerate, spacing and orientation are unknown")
    return data, image


def read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a 3-D NIfTI file.

    Returns
    -------
    data : ndarray (i, j, k), float64
    affine : ndarray (4, 4)

    Raises
    ------
    UserError
        See :func:`read_image`.
    """
    data, image = read_image(path, {3: "three"})
    return data, np.asarray(image.affine)


def check_spacing(path: Path) -> None:
    """Refuse a file whose millimetres cannot be trusted, by its header.

    Raises
    ------
    UserError
        The units are not mm, the spacing is missing, left at its default, implausible for
        short-axis slices, or given twice and differently.
    """
    raw = raw_header(path)
    unit = UNITS.get(code := int(raw["xyzt_units"]) % 8, f"code {code}")
    pixdim = np.abs(raw["pixdim"][1:4].astype(float))
    found_mm = "pixdim is " + _by(pixdim)
    if unit not in TRUSTED_UNITS:
        raise _doubt(path, f"the header's unit of length is {unit}", "mm")
    if not (np.isfinite(pixdim).all() and pixdim.all()):
        raise _doubt(path, found_mm, "a spacing above zero along every axis")
    if (pixdim == 1).all() and not (raw["qform_code"] or raw["sform_code"]):
        raise _doubt(path, f"{found_mm} and neither qform nor sform is set", "a header filled in")
    spacing = _affine_spacing(path)
    if not np.allclose(pixdim, spacing, rtol=TOLERANCE, atol=0):
        raise _doubt(
            path, f"{found_mm}, but the affine's spacing is {_by(spacing)}", "one and the same"
        )
    limits = {
        "in-plane spacing": (spacing[:2], IN_PLANE_MM),
        "spacing of slices (the third axis)": (spacing[2:], SLICE_MM),
    }
    for name, (values, (low, high)) in limits.items():
        if not ((low <= values) & (values <= high)).all():
            raise _doubt(path, f"the {name} is {_by(values)} mm", f"{low:g} to {high:g} mm")


def count_frames(path: Path) -> int:
    """Return how many frames a file says it has, 1 where it says nothing that can be read."""
    try:
        shape = raw_header(path).get_data_shape()
    except UserError:  # it is said when the file is read
        return 1
    return int(shape[3]) if len(shape) == 4 else 1


def raw_header(path: Path) -> Any:
    """Return the header as it is in the file; nibabel puts 1 where a spacing is 0.

    Raises
    ------
    UserError
        It is not NIfTI.
    """
    kinds = (nib.Nifti1Header, nib.Nifti2Header)
    try:
        with ImageOpener(path) as file:
            start = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = next(kind for kind in kinds if kind.may_contain_header(start))
        return kind.from_fileobj(BytesIO(start), check=False)
    except StopIteration:
        raise UserError(f"{path}: cannot be read as NIfTI (it does not begin as one)") from None
    except Exception as error:
        raise _unreadable(path, error) from None


def _affine_spacing(path: Path) -> np.ndarray:
    try:
        affine = np.asarray(nib.load(path).affine, float)
    except Exception as error:
        raise _unreadable(path, error) from None
    spacing: np.ndarray = np.linalg.norm(affine[:3, :3], axis=0)
    return spacing


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    return UserError(f"{path}: cannot be read as NIfTI ({reason})")


def _by(spacing: np.ndarray) -> str:
    return " × ".join(f"{value:.4g}" for value in spacing)


def _doubt(path: Path, found: str, expected: str) -> UserError:
    return UserError(f"{path}: {found}, expected {expected}; --any-spacing takes it as it is")


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
