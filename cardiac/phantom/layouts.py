"""Write examinations as NIfTI in the official layouts of ACDC and M&Ms-2."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np

from cardiac.phantom.examination import Examination, Frame, examine
from common.labels import LV, MYO, RV
from common.seeding import derive_seed

_ACDC_VALUES = {RV: 1, MYO: 2, LV: 3}
_MNMS2_VALUES = {LV: 1, MYO: 2, RV: 3}
_COLUMNS = ("SUBJECT_CODE", "DISEASE", "VENDOR", "SCANNER", "FIELD")


def write_acdc_patient(acdc: Path, examination: Examination) -> None:
    """Write ``training/patientNNN`` with both frames, their labels and ``Info.cfg``."""
    about = np.random.default_rng(derive_seed(examination.seed, "about"))
    name = f"patient{examination.patient:03d}"
    folder = acdc / "training" / name
    folder.mkdir(parents=True)
    # As in ACDC, the study does not always begin in end-diastole
    ed = int(about.choice([1, 4], p=[0.95, 0.05]))
    frames = {"ED": ed, "ES": ed + int(about.integers(7, 13))}
    info = {
        **frames,
        "Group": examination.disease,
        "Height": float(about.integers(155, 193)),
        "NbFrame": int(about.integers(20, 31)),
        "Weight": float(about.integers(52, 108)),
    }
    lines = (f"{key}: {value}\n" for key, value in info.items())
    (folder / "Info.cfg").write_text("".join(lines), encoding="utf-8")
    for phase, frame in examine(examination).items():
        _write_frame(folder / f"{name}_frame{frames[phase]:02d}", frame, _ACDC_VALUES)


def write_mnms2_patient(mnms2: Path, examination: Examination) -> None:
    """Write ``dataset/NNN`` with both frames and their labels."""
    name = f"{examination.patient:03d}"
    folder = mnms2 / "dataset" / name
    folder.mkdir(parents=True)
    for phase, frame in examine(examination).items():
        _write_frame(folder / f"{name}_SA_{phase}", frame, _MNMS2_VALUES)


def write_mnms2_table(mnms2: Path, examinations: Iterable[Examination]) -> None:
    """Write ``dataset_information.csv``."""
    with (mnms2 / "dataset_information.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for examination in examinations:
            scanner = examination.scanner
            about = scanner.vendor, scanner.model, scanner.field_tesla
            table.writerow((examination.patient, examination.disease, *about))
        table.writerow([""] * len(_COLUMNS))  # the published table is padded


def _write_frame(stem: Path, frame: Frame, values: Mapping[int, int]) -> None:
    """Write ``STEM.nii.gz`` and ``STEM_gt.nii.gz``, with labels in the data set's own numbers."""
    numbers = np.array([0, *(values[label] for label in sorted(values))])
    # M&Ms-2 keeps the labels of a floating-point study in floating point
    kind = np.float64 if frame.image.dtype == np.float64 else np.uint8
    stored = numbers[frame.labels.astype(int)].astype(kind)
    for name, data in ((f"{stem.name}.nii.gz", frame.image), (f"{stem.name}_gt.nii.gz", stored)):
        nifti = nib.Nifti1Image(data, frame.affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, stem.with_name(name))
