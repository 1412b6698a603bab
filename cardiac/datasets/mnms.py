"""M&Ms as published: whole cines, labelled in two of their frames.

``211230_M&Ms_Dataset_information_diagnosis_opendataset.csv`` + ``CODE/CODE_sa[_gt].nii.gz`` below
``Training/Labeled``, ``Validation`` and ``Testing``; ``Training/Unlabeled`` takes no part. Files
are 4-D (x, y, z, time); columns ED and ES count frames from 0. Labels 1 LV, 2 MYO, 3 RV.
Campello et al., IEEE TMI 2021.
"""

from collections.abc import Iterable
from pathlib import Path

from cardiac.datasets.case import FRAMES, MNMS_LABELS, Case
from cardiac.datasets.table import read_rows
from cardiac.nifti import raw_header
from common.errors import UserError

INDEX = "*M&Ms*nformation*.csv"
"""What the index is called; releases differ in its date and in the rest."""
CODE = "External code"
IMAGE = "_sa.nii.gz"
UNLABELLED = "unlabeled"


def find_index(data_dir: Path) -> Path | None:
    """Return the index of the M&Ms layout; None where the folder has none.

    Raises
    ------
    UserError
        There are several.
    """
    found = sorted(path for path in data_dir.glob(INDEX) if not path.name.startswith("."))
    if len(found) > 1:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{data_dir}: found {names}, expected one index of M&Ms")
    return found[0] if found else None


def list_mnms(index: Path) -> list[Case]:
    """List the labelled cases of the index; their labels need not be there.

    Raises
    ------
    UserError
        The index lacks a column, lists a patient twice or gives no frame number, or a patient's
        images are not there or there twice.
    """
    folders: dict[str, list[Path]] = {}
    for path in sorted(index.parent.rglob(f"*/*{IMAGE}")):
        if path.name == path.parent.name + IMAGE:
            folders.setdefault(path.parent.name, []).append(path.parent)
    cases = []
    seen = set()
    for row in read_rows(index, CODE, FRAMES):
        patient = row[CODE]
        where = f"{index}: row of {patient}"
        if patient in seen:
            raise UserError(f"{where}: {CODE} is listed twice")
        seen.add(patient)
        found = folders.get(patient, [])
        labelled = [folder for folder in found if not _is_unlabelled(folder, index.parent)]
        if found and not labelled:
            continue
        if len(labelled) != 1:
            several = " and ".join(map(str, labelled))
            raise UserError(
                f"{where}: {CODE}: found {several or 'no such file'}, expected one "
                f"{patient}/{patient}{IMAGE} below {index.parent}"
            )
        stem = labelled[0] / patient
        image, label = Path(f"{stem}_sa.nii.gz"), Path(f"{stem}_sa_gt.nii.gz")
        for frame in FRAMES:
            number = row[frame].removesuffix(".0")  # of a table that went through pandas
            if not number.isdecimal():
                raise UserError(
                    f"{where}: {frame} is {row[frame]!r}, expected a frame number from 0"
                )
            cases.append(
                Case(patient, frame, image, label, MNMS_LABELS, row, frame_index=int(number))
            )
    return cases


def check_frames(cases: Iterable[Case], index: Path) -> None:
    """Hold the frames of the index against the headers of the files.

    Raises
    ------
    UserError
        A file is no cine or is too short for the index.
    """
    for case in cases:
        assert case.frame_index is not None
        for path in (case.image, case.label):
            shape = raw_header(path).get_data_shape()
            if len(shape) != 4:
                raise UserError(
                    f"{path}: has shape {shape}, expected four dimensions (x, y, z, time): "
                    f"{index.name} says that {case.frame} is its frame {case.frame_index}"
                )
            if case.frame_index >= shape[3]:
                raise UserError(
                    f"{index}: row of {case.patient}: {case.frame} is {case.frame_index}, expected "
                    f"0 to {shape[3] - 1}: {path} has {shape[3]} frames"
                )


def _is_unlabelled(folder: Path, data_dir: Path) -> bool:
    parts = folder.relative_to(data_dir).parts[:-1]
    return UNLABELLED in (part.lower() for part in parts)
