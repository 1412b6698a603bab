"""Which cases a folder holds, read past every fault of its index.

`cardiac.datasets.read_cases` stops at the first fault, as training must; this goes on.
"""

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cardiac.datasets import ACDC_LABELS, FRAMES, MNMS_LABELS, Case, is_mnms2
from cardiac.datasets.mnms import find_index, list_mnms
from cardiac.inspection.findings import Finding
from common.errors import UserError

MNMS_INDEX = "dataset_information.csv"
# What the published data sets hold beside the files we use: long-axis views and whole cines
MNMS_FILES = r"{patient}_(SA|LA)_(ED|ES|CINE)(_gt)?\.nii\.gz"
ACDC_FILES = r"Info\.cfg|MANDATORY_CITATION\.md|{patient}_4d\.nii\.gz"
NAMED = 3
"""Names given of a list that may be long."""


@dataclass
class Listing:
    """The cases of a folder, with all that is wrong about its index."""

    layout: str
    cases: list[Case] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def found(self, code: str, message: str, case: str = "", file: str = "") -> None:
        """Note a finding."""
        self.findings.append(Finding(code, message, case, file))


def list_folder(data_dir: Path) -> Listing:
    """List the cases of a folder in one of our layouts, with or without their files.

    Raises
    ------
    UserError
        The folder is missing, of no such layout, or holds no patient at all, or it is in M&Ms's
        layout and its index is at fault.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such data folder")
    if is_mnms2(data_dir) or (data_dir / "dataset").is_dir():
        listing = _list_mnms2(data_dir)
    elif index := find_index(data_dir):
        listing = Listing("M&Ms", list_mnms(index))
    elif patients := (
        sorted((data_dir / "training").glob("patient*")) or sorted(data_dir.glob("patient*"))
    ):
        listing = Listing("ACDC")
        for folder in patients:
            _add_acdc_patient(listing, folder, data_dir)
    else:
        raise UserError(
            f"{data_dir}: neither M&Ms-2 ({MNMS_INDEX}), M&Ms (…M&Ms…information….csv) nor ACDC "
            "(training/patientNNN/) is found"
        )
    if not (listing.cases or listing.findings):
        raise UserError(f"{data_dir}: holds no patient")
    return listing


def some(names: Iterable[str]) -> str:
    """Return the first few of the names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest


def _list_mnms2(data_dir: Path) -> Listing:
    listing = Listing("M&Ms-2")
    root = data_dir / "dataset"
    folders = {path.name: path for path in sorted(root.glob("*")) if path.is_dir()}
    rows = _read_rows(data_dir / MNMS_INDEX, listing)
    if rows is None:
        rows = {name: {} for name in folders}
    for patient, info in sorted(rows.items()):
        if patient not in folders:
            near = [name for name in folders if name.lstrip("0") == patient.lstrip("0")]
            hint = f"; found dataset/{near[0]}" if near else ""
            listing.found(
                "folder-missing",
                f"{MNMS_INDEX} lists the subject, expected a folder dataset/{patient}{hint}",
                patient,
            )
            continue
        for frame in FRAMES:
            stem = f"{patient}_SA_{frame}"
            image, label = (folders[patient] / f"{stem}{end}.nii.gz" for end in ("", "_gt"))
            listing.cases.append(Case(patient, frame, image, label, MNMS_LABELS, info))
        _note_extra(listing, folders[patient], MNMS_FILES)
    for name in sorted(set(folders) - set(rows)):
        listing.found(
            "folder-unlisted",
            f"{MNMS_INDEX} has no row for the folder dataset/{name}, so it takes no part",
            name,
        )
    return listing


def _read_rows(index: Path, listing: Listing) -> dict[str, dict[str, str]] | None:
    """Return the csv's columns by patient; None where it does not say who its patients are."""
    try:
        with index.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            lines = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        listing.found("csv-missing", f"expected a file {MNMS_INDEX}; its folder names are used")
        return None
    except (OSError, csv.Error) as error:
        listing.found("csv-missing", f"cannot be read as csv ({error})", file=index.name)
        return None
    if "SUBJECT_CODE" not in columns:
        hint = "; are its columns separated by commas?" if len(columns) < 2 else ""
        listing.found(
            "csv-column",
            f"no column SUBJECT_CODE; found {some(columns) or 'nothing'}{hint}",
            file=index.name,
        )
        return None
    rows: dict[str, dict[str, str]] = {}
    for number, row in lines:
        info = {key: (value or "").strip() for key, value in row.items() if key is not None}
        patient = info["SUBJECT_CODE"] and info["SUBJECT_CODE"].zfill(3)
        if None in row or (not patient and any(info.values())):
            found = "more cells than columns" if None in row else "no SUBJECT_CODE"
            listing.found(
                "csv-row", f"line {number}: {found}, expected {','.join(columns)}", file=index.name
            )
        if patient in rows:
            listing.found(
                "subject-twice",
                f"line {number} lists subject {info['SUBJECT_CODE']} again, expected one row each",
                patient,
                index.name,
            )
        elif patient:
            rows[patient] = info
    return rows


def _add_acdc_patient(listing: Listing, folder: Path, data_dir: Path) -> None:
    patient, path = folder.name, folder / "Info.cfg"
    where = str(path.relative_to(data_dir))
    info: dict[str, str] = {}
    frames = _labelled_frames(folder)  # who knows ED from ES only by their order
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        listing.found("info-missing", "missing; it names the ED and ES frames", patient, where)
    else:
        parts = (line.partition(":") for line in lines)
        info = {key.strip(): value.strip() for key, colon, value in parts if colon}
        for frame in FRAMES:
            if not info.get(frame, "").isdigit():
                said = repr(info[frame]) if frame in info else "missing"
                listing.found(
                    "info-frame", f"{frame} is {said}, expected a frame number", patient, where
                )
            else:
                frames[frame] = int(info[frame])
        _check_frames(listing, info, patient, where)
    for frame in FRAMES:
        if frame in frames:
            stem = f"{patient}_frame{frames[frame]:02d}"
            image, label = (folder / f"{stem}{end}.nii.gz" for end in ("", "_gt"))
            listing.cases.append(Case(patient, frame, image, label, ACDC_LABELS, info))
    numbers = "|".join(f"{number:02d}" for number in frames.values())
    frame_files = rf"{{patient}}_frame({numbers})(_gt)?\.nii\.gz"
    _note_extra(listing, folder, f"{ACDC_FILES}|{frame_files}" if numbers else ACDC_FILES)


def _check_frames(listing: Listing, info: dict[str, str], patient: str, where: str) -> None:
    ed, es, last = (info.get(key, "") for key in (*FRAMES, "NbFrame"))
    if ed.isdigit() and ed == es:
        listing.found("info-frame", f"ED and ES are both frame {ed}", patient, where)
    for name, frame in zip(FRAMES, (ed, es), strict=True):
        if frame.isdigit() and last.isdigit() and int(frame) > int(last):
            listing.found(
                "info-range", f"{name} is frame {frame} of {last} (NbFrame)", patient, where
            )


def _labelled_frames(folder: Path) -> dict[str, int]:
    """Return ED and ES as the first and last of the frames that have a label, if there are two."""
    names = (re.search(r"_frame(\d+)_gt\.nii\.gz$", path.name) for path in folder.glob("*_gt*"))
    numbers = sorted(int(name[1]) for name in names if name)
    return dict(zip(FRAMES, numbers, strict=True)) if len(numbers) == len(FRAMES) else {}


def _note_extra(listing: Listing, folder: Path, known: str) -> None:
    pattern = re.compile(known.format(patient=re.escape(folder.name)))
    extra = sorted(
        path.name
        for path in folder.glob("*")
        if not path.name.startswith(".") and not pattern.fullmatch(path.name)
    )
    if extra:
        listing.found("file-extra", f"not used: {some(extra)}", folder.name)
