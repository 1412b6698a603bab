"""Write phantoms as NIfTI in the official layouts of ACDC and M&Ms-2."""

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np

from client_app.phantom.heart import DISEASES
from client_app.phantom.scanner import SOURCE, VENDORS, blend
from client_app.phantom.study import Frame, Study, examine
from common.errors import UserError
from common.labels import LV, MYO, RV
from common.seeding import derive_seed

Progress = Callable[[int, int], None]
"""Called after each patient with the number of patients done and to do."""

PATIENTS = {"SIEMENS": 16, "Philips Medical Systems": 16, "GE MEDICAL SYSTEMS": 8}
"""Patients by vendor unless told otherwise: one site is half the size of the others."""
ACDC_DISEASES = ("NOR", "DCM", "HCM", "MINF", "RV")
MNMS2_DISEASES = ("NOR", "DCM", "HCM", "RV")
MOST_ACDC = 999
MOST_PER_VENDOR = 300
"""Each vendor has its own range of subject codes, so that more of one renumbers no other."""
MOST_HETEROGENEITY = 2.0

_ACDC_VALUES = {RV: 1, MYO: 2, LV: 3}
_MNMS2_VALUES = {LV: 1, MYO: 2, RV: 3}
_COLUMNS = ("SUBJECT_CODE", "DISEASE", "VENDOR", "SCANNER", "FIELD")


def write_phantom(
    out: Path,
    *,
    seed: int = 0,
    acdc_patients: int = 20,
    patients: Mapping[str, int] | None = None,
    heterogeneity: float = 1.0,
    progress: Progress | None = None,
) -> None:
    """Write both layouts: ``out/acdc`` to pretrain on, ``out/mnms2`` with one site per vendor.

    The same arguments give the same files. A patient depends on the seed, the layout, the vendor
    and its own number alone, so asking for more patients changes none of the others.

    Parameters
    ----------
    out
        Folder to write to; made if missing.
    seed
        At least 0.
    acdc_patients
        Patients of the source scanner, at most ``MOST_ACDC``.
    patients
        Patients by vendor (a key of ``VENDORS``), at most ``MOST_PER_VENDOR`` each.
    heterogeneity
        How far the vendors' looks are from the source scanner's: 0 is alike, 1 clearly
        different; at most ``MOST_HETEROGENEITY``.
    progress
        See ``Progress``.

    Raises
    ------
    UserError
        ``out/acdc`` or ``out/mnms2`` holds something already, or a number makes no sense.
    """
    acdc = _plan_acdc(seed, acdc_patients, None)
    mnms2 = _plan_mnms2(seed, patients, heterogeneity, None)
    _write(out, {"acdc": acdc, "mnms2": mnms2}, progress)


def write_acdc(
    out: Path,
    *,
    seed: int = 0,
    patients: int = 20,
    diseases: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``out/acdc`` alone, the same as `write_phantom` would.

    Parameters
    ----------
    out, seed, patients, progress
        As for `write_phantom`.
    diseases
        Keys of ``DISEASES`` that the patients have in turn; ``ACDC_DISEASES`` if None.
    """
    _write(out, {"acdc": _plan_acdc(seed, patients, diseases)}, progress)


def write_mnms2(
    out: Path,
    *,
    seed: int = 0,
    patients: Mapping[str, int] | None = None,
    heterogeneity: float = 1.0,
    diseases: Mapping[str, Sequence[str]] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write ``out/mnms2`` alone, the same as `write_phantom` would.

    Parameters
    ----------
    out, seed, patients, heterogeneity, progress
        As for `write_phantom`.
    diseases
        By vendor, keys of ``DISEASES`` that its patients have in turn; ``MNMS2_DISEASES`` for a
        vendor that is not named.
    """
    _write(out, {"mnms2": _plan_mnms2(seed, patients, heterogeneity, diseases)}, progress)


def _plan_acdc(seed: int, patients: int, diseases: Sequence[str] | None) -> list[Study]:
    _check_seed(seed)
    _check_number("acdc_patients", patients, 1, MOST_ACDC)
    diseases = _checked_diseases(ACDC_DISEASES if diseases is None else diseases)
    return [
        Study(
            patient=index + 1,
            disease=diseases[index % len(diseases)],
            scanner=SOURCE,
            seed=derive_seed("phantom", seed, "acdc", SOURCE.vendor, index),
        )
        for index in range(patients)
    ]


def _plan_mnms2(
    seed: int,
    patients: Mapping[str, int] | None,
    heterogeneity: float,
    diseases: Mapping[str, Sequence[str]] | None,
) -> list[Study]:
    patients = PATIENTS if patients is None else patients
    diseases = diseases or {}
    _check_seed(seed)
    _check_number("heterogeneity", heterogeneity, 0, MOST_HETEROGENEITY)
    for vendor in (*patients, *diseases):
        if vendor not in VENDORS:
            raise UserError(f"vendor {vendor!r} is unknown; expected one of {', '.join(VENDORS)}")
    for vendor, count in patients.items():
        _check_number(f"patients of {vendor}", count, 0, MOST_PER_VENDOR)
    if not sum(patients.values()):
        raise UserError("patients: found none, expected at least one of some vendor")
    studies = []
    for position, (vendor, scanner) in enumerate(VENDORS.items()):
        have = _checked_diseases(diseases.get(vendor, MNMS2_DISEASES))
        studies += [
            Study(
                patient=position * MOST_PER_VENDOR + index + 1,
                disease=have[index % len(have)],
                scanner=blend(scanner, heterogeneity),
                seed=derive_seed("phantom", seed, "mnms2", vendor, index),
            )
            for index in range(patients.get(vendor, 0))
        ]
    return studies


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise UserError(f"seed: found {seed}, expected a whole number of at least 0")


def _check_number(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # also refuses NaN
        raise UserError(f"{name}: found {value}, expected {least} to {most}")


def _checked_diseases(diseases: Sequence[str]) -> Sequence[str]:
    unknown = [disease for disease in diseases if disease not in DISEASES]
    if unknown or not diseases:
        found = ", ".join(map(repr, unknown)) or "none"
        raise UserError(f"diseases: found {found}, expected some of {', '.join(DISEASES)}")
    return diseases


def _write(out: Path, layouts: Mapping[str, Sequence[Study]], progress: Progress | None) -> None:
    """Write the named layouts into ``out``, each folder whole or not at all."""
    for name in layouts:
        if (out / name).is_dir() and not any((out / name).iterdir()):
            continue
        if (out / name).exists():
            raise UserError(f"{out / name}: holds something already; expected it new or empty")
    out.mkdir(parents=True, exist_ok=True)
    done, total = 0, sum(map(len, layouts.values()))
    with TemporaryDirectory(dir=out, prefix=".phantom-") as unfinished:
        for name, studies in layouts.items():
            folder = Path(unfinished, name)
            folder.mkdir()
            for study in studies:
                (_write_acdc_patient if name == "acdc" else _write_mnms2_patient)(folder, study)
                done += 1
                if progress:
                    progress(done, total)
            if name == "mnms2":
                _write_mnms2_table(folder, studies)
        for name in layouts:
            Path(unfinished, name).rename(out / name)


def _write_acdc_patient(acdc: Path, study: Study) -> None:
    about = np.random.default_rng(derive_seed(study.seed, "about"))
    name = f"patient{study.patient:03d}"
    folder = acdc / "training" / name
    folder.mkdir(parents=True)
    # As in ACDC, the study does not always begin in end-diastole
    ed = int(about.choice([1, 4], p=[0.95, 0.05]))
    frames = {"ED": ed, "ES": ed + int(about.integers(7, 13))}
    info = {
        **frames,
        "Group": study.disease,
        "Height": float(about.integers(155, 193)),
        "NbFrame": int(about.integers(20, 31)),
        "Weight": float(about.integers(52, 108)),
    }
    lines = (f"{key}: {value}\n" for key, value in info.items())
    (folder / "Info.cfg").write_text("".join(lines), encoding="utf-8")
    for phase, frame in examine(study).items():
        _write_frame(folder / f"{name}_frame{frames[phase]:02d}", frame, _ACDC_VALUES)


def _write_mnms2_patient(mnms2: Path, study: Study) -> None:
    name = f"{study.patient:03d}"
    folder = mnms2 / "dataset" / name
    folder.mkdir(parents=True)
    for phase, frame in examine(study).items():
        _write_frame(folder / f"{name}_SA_{phase}", frame, _MNMS2_VALUES)


def _write_mnms2_table(mnms2: Path, studies: Sequence[Study]) -> None:
    with (mnms2 / "dataset_information.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(_COLUMNS)
        for study in studies:
            scanner = study.scanner
            table.writerow(
                (study.patient, study.disease, scanner.vendor, scanner.model, scanner.field_tesla)
            )
        table.writerow([""] * len(_COLUMNS))  # the published table is padded


def _write_frame(stem: Path, frame: Frame, values: Mapping[int, int]) -> None:
    """Write an image and its labels, in the data set's own numbers, as ``stem[_gt].nii.gz``."""
    numbers = np.array([0, *(values[label] for label in sorted(values))])
    # M&Ms-2 keeps the labels of a floating-point study in floating point
    kind = np.float64 if frame.image.dtype == np.float64 else np.uint8
    stored = numbers[frame.labels.astype(int)].astype(kind)
    for name, data in ((f"{stem.name}.nii.gz", frame.image), (f"{stem.name}_gt.nii.gz", stored)):
        nifti = nib.Nifti1Image(data, frame.affine)
        nifti.header.set_xyzt_units("mm")
        nib.save(nifti, stem.with_name(name))
