"""Where each public data set keeps its cases, and what its label values mean.

ACDC      official layout: ``training/patientNNN/patientNNN_frameXX[_gt].nii.gz`` + ``Info.cfg``.
          Labels 1 RV, 2 MYO, 3 LV. Bernard et al., IEEE TMI 2018.
M&Ms-2    official layout: ``dataset_information.csv`` +
          ``dataset/NNN/NNN_SA_{ED,ES}[_gt].nii.gz``. Labels 1 LV, 2 MYO, 3 RV.
          Martín-Isla et al., IEEE JBHI 2023.
"""

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UserError
from common.labels import BACKGROUND, LV, MYO, RV

ACDC_LABELS = {0: BACKGROUND, 1: RV, 2: MYO, 3: LV}
MNMS_LABELS = {0: BACKGROUND, 1: LV, 2: MYO, 3: RV}

FRAMES = ("ED", "ES")
VENDOR_NAMES = {
    "siemens": "Siemens",
    "philips": "Philips",
    "philips medical systems": "Philips",
    "ge": "GE",
    "ge medical systems": "GE",
    "canon": "Canon",
}


@dataclass(frozen=True)
class Case:
    """One frame of one patient's study.

    Attributes
    ----------
    patient
        The patient's code, unique within the data folder.
    frame
        ``ED`` or ``ES``.
    image, label
        Paths of the NIfTI files.
    label_map
        Canonical label of each value in the label file.
    info
        What the data set says of the patient, by column.
    axes
        What the affines' first two axes are, ``LPS`` or ``RAS``; see ``client_app.view``.
    """

    patient: str
    frame: str
    image: Path
    label: Path
    label_map: Mapping[int, int]
    info: Mapping[str, str]
    axes: str = "LPS"

    @property
    def name(self) -> str:
        """A name for people: patient and frame."""
        return f"{self.patient} {self.frame}"


def read_cases(data_dir: Path, axes: str = "LPS") -> list[Case]:
    """List the cases of a data folder, ED and ES of every patient, sorted by patient.

    Parameters
    ----------
    data_dir
        A folder in ACDC's or M&Ms-2's layout; which one is seen from what it holds.
    axes
        Of the files' affines, see :class:`Case`.

    Raises
    ------
    UserError
        The folder is missing or of neither layout, or a file that it should hold is not there.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such data folder")
    if is_mnms2(data_dir):
        cases = _read_mnms2(data_dir)
    elif (patients := sorted((data_dir / "training").glob("patient*"))) or (
        patients := sorted(data_dir.glob("patient*"))
    ):
        cases = [case for patient in patients for case in _read_acdc_patient(patient)]
    else:
        raise UserError(
            f"{data_dir}: neither M&Ms-2 (dataset_information.csv) nor ACDC "
            "(training/patientNNN/) is found here"
        )
    if not cases:
        raise UserError(f"{data_dir}: holds no patient")
    for case in cases:
        for path in (case.image, case.label):
            if not path.is_file():
                raise UserError(f"{path}: missing; patient {case.patient} needs it ({case.frame})")
    return [replace(case, axes=axes) for case in cases]


def is_mnms2(data_dir: Path) -> bool:
    """Say whether a folder has the index of the M&Ms-2 layout."""
    return (data_dir / "dataset_information.csv").is_file()


def _read_acdc_patient(folder: Path) -> list[Case]:
    info_path = folder / "Info.cfg"
    try:
        lines = info_path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise UserError(f"{info_path}: missing; it names the ED and ES frames") from None
    fields = (line.partition(":") for line in lines)
    info = {key.strip(): value.strip() for key, colon, value in fields if colon}
    cases = []
    for frame in FRAMES:
        if not info.get(frame, "").isdigit():
            raise UserError(f"{info_path}: {frame} is {info.get(frame)!r}, expected a frame number")
        stem = f"{folder.name}_frame{int(info[frame]):02d}"
        image, label = folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz"
        cases.append(Case(folder.name, frame, image, label, ACDC_LABELS, info))
    return cases


def _read_mnms2(data_dir: Path) -> list[Case]:
    index = data_dir / "dataset_information.csv"
    with index.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
        columns = reader.fieldnames or []
    if "SUBJECT_CODE" not in columns:
        raise UserError(f"{index}: no column SUBJECT_CODE; found {', '.join(columns)}")
    cases = []
    seen = set()
    for row in rows:
        code = row["SUBJECT_CODE"]
        if not code:  # the published file is padded with empty rows
            continue
        patient = code.zfill(3)
        if patient in seen:
            raise UserError(f"{index}: subject {code} is listed twice")
        seen.add(patient)
        folder = data_dir / "dataset" / patient
        for frame in FRAMES:
            stem = f"{patient}_SA_{frame}"
            image, label = folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz"
            cases.append(Case(patient, frame, image, label, MNMS_LABELS, row))
    return sorted(cases, key=lambda case: (case.patient, case.frame))


def site_name(column: str, value: str) -> str:
    """Return the site's name for a value of the column that splits the data.

    Vendors get one spelling; bare numbers get the column's name (``centre-1``).
    """
    if not value:
        return f"{column.lower()}-unknown"
    if column.upper() == "VENDOR":
        return VENDOR_NAMES.get(value.lower(), value)
    return f"{column.lower()}-{value}" if value.isdigit() else value


def group_by_site(cases: Iterable[Case], column: str, data_dir: Path) -> dict[str, list[Case]]:
    """Divide cases into sites by a column, sorted by the sites' names.

    Raises
    ------
    UserError
        The data set has no such column.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        if column not in case.info:
            known = ", ".join(sorted(case.info)) or "none"
            raise UserError(
                f"{data_dir}: no column {column!r} to split by (patient {case.patient}); "
                f"found {known}"
            )
        groups.setdefault(site_name(column, case.info[column]), []).append(case)
    return dict(sorted(groups.items()))
