"""M&Ms-2 in its official layout.

``dataset_information.csv`` + ``dataset/NNN/NNN_SA_{ED,ES}[_gt].nii.gz``. Labels 1 LV, 2 MYO, 3 RV.
Martín-Isla et al., IEEE JBHI 2023.
"""

from pathlib import Path

from cardiac.datasets.case import FRAMES, MNMS_LABELS, Case
from cardiac.datasets.table import read_rows
from common.errors import UserError

INDEX = "dataset_information.csv"


def is_mnms2(data_dir: Path) -> bool:
    """Say whether a folder has the index of the M&Ms-2 layout."""
    return (data_dir / INDEX).is_file()


def list_mnms2(data_dir: Path) -> list[Case]:
    """List the cases of the index, with or without their files."""
    index = data_dir / INDEX
    cases = []
    seen = set()
    for row in read_rows(index, "SUBJECT_CODE"):
        code = row["SUBJECT_CODE"]
        patient = code.zfill(3)
        if patient in seen:
            raise UserError(f"{index}: subject {code} is listed twice")
        seen.add(patient)
        folder = data_dir / "dataset" / patient
        for frame in FRAMES:
            stem = f"{patient}_SA_{frame}"
            image, label = folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz"
            cases.append(Case(patient, frame, image, label, MNMS_LABELS, row))
    return cases
