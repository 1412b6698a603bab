"""Write whole data sets of phantoms."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from cardiac.datasets import site_name
from cardiac.phantom.examination import Examination
from cardiac.phantom.heart import DISEASES
from cardiac.phantom.layouts import write_acdc_patient, write_mnms2_patient, write_mnms2_table
from cardiac.phantom.scanner import SOURCE, VENDORS, blend
from common.errors import UserError
from common.seeding import derive_seed

Progress = Callable[[int, int], None]
"""Called after each patient with the number of patients done and in all."""

PATIENTS = {"SIEMENS": 16, "Philips Medical Systems": 16, "GE MEDICAL SYSTEMS": 8}
"""Default number of patients by vendor; one site is half the size of the others."""
ACDC_DISEASES = ("NOR", "DCM", "HCM", "MINF", "RV")
MNMS2_DISEASES = ("NOR", "DCM", "HCM", "RV")
PATHOLOGY = "RV"
"""Disease of ``pathology_at``, a dilated RV: it shows in a label of its own."""
MOST_ACDC = 999
MOST_PER_VENDOR = 300
"""Size of each vendor's own range of subject codes, so more of one renumber no other."""
MOST_HETEROGENEITY = 2.0


def write_phantom(
    out: Path,
    *,
    seed: int = 0,
    acdc_patients: int = 20,
    patients: Mapping[str, int] | None = None,
    heterogeneity: float = 1.0,
    pathology_at: str = "",
    progress: Progress | None = None,
) -> None:
    """Write both layouts: ``out/acdc`` to pretrain on, ``out/mnms2`` with one site per vendor.

    The same arguments give the same files. A patient depends only on the seed, the layout, the
    vendor and its own number, so more patients leave the others as they are. Each layout's folder
    is written whole or not at all.

    Parameters
    ----------
    out
        Folder to write to; made if missing.
    seed
        Seed of all patients, at least 0.
    acdc_patients
        Number of patients of the source scanner, at most ``MOST_ACDC``.
    patients
        Number of patients by vendor (a key of ``VENDORS``), at most ``MOST_PER_VENDOR`` each.
    heterogeneity
        Difference of the vendors' looks from the source scanner's: 0 is alike, 1 clearly
        different; at most ``MOST_HETEROGENEITY``.
    pathology_at
        Vendor, or its site's name, whose patients all have ``PATHOLOGY``, while nobody else has it,
        not even in ACDC. Empty for every disease everywhere.
    progress
        See ``Progress``.

    Raises
    ------
    UserError
        ``out/acdc`` or ``out/mnms2`` is not empty, or a value is out of range.
    """
    spared = _without_pathology(ACDC_DISEASES) if pathology_at else None
    acdc = _plan_acdc(seed, acdc_patients, spared)
    mnms2 = _plan_mnms2(seed, patients, heterogeneity, _at(pathology_at, patients, None))
    _write(out, {"acdc": acdc, "mnms2": mnms2}, progress)


def write_acdc(
    out: Path,
    *,
    seed: int = 0,
    patients: int = 20,
    diseases: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the ``out/acdc`` of :func:`write_phantom` alone.

    The patients have ``diseases``, keys of ``DISEASES``, in turn; ``ACDC_DISEASES`` by default.
    """
    _write(out, {"acdc": _plan_acdc(seed, patients, diseases)}, progress)


def write_mnms2(
    out: Path,
    *,
    seed: int = 0,
    patients: Mapping[str, int] | None = None,
    heterogeneity: float = 1.0,
    diseases: Mapping[str, Sequence[str]] | None = None,
    pathology_at: str = "",
    progress: Progress | None = None,
) -> None:
    """Write the ``out/mnms2`` of :func:`write_phantom` alone.

    The patients of each vendor have the ``diseases`` by vendor, keys of ``DISEASES``, in turn;
    ``MNMS2_DISEASES`` by default. ``pathology_at`` is applied after it.
    """
    diseases = _at(pathology_at, patients, diseases)
    _write(out, {"mnms2": _plan_mnms2(seed, patients, heterogeneity, diseases)}, progress)


def _plan_acdc(seed: int, patients: int, diseases: Sequence[str] | None) -> list[Examination]:
    _check_count("seed", seed, 0)
    _check_count("ACDC patients", patients, 1, MOST_ACDC)
    diseases = _checked_diseases(ACDC_DISEASES if diseases is None else diseases)
    return [
        Examination(
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
) -> list[Examination]:
    patients = PATIENTS if patients is None else patients
    diseases = diseases or {}
    _check_count("seed", seed, 0)
    if not 0 <= heterogeneity <= MOST_HETEROGENEITY:  # refuses NaN, too
        most = f"{MOST_HETEROGENEITY:g}"
        raise UserError(f"heterogeneity: found {heterogeneity}, expected 0 to {most}")
    for vendor in (*patients, *diseases):
        if vendor not in VENDORS:
            raise UserError(f"vendor {vendor!r} is unknown; expected one of {', '.join(VENDORS)}")
    for vendor, count in patients.items():
        _check_count(f"patients of {vendor}", count, 0, MOST_PER_VENDOR)
    if not sum(patients.values()):
        raise UserError("patients: found none, expected at least one of some vendor")
    examinations = []
    for position, (vendor, scanner) in enumerate(VENDORS.items()):
        have = _checked_diseases(diseases.get(vendor, MNMS2_DISEASES))
        examinations += [
            Examination(
                patient=position * MOST_PER_VENDOR + index + 1,
                disease=have[index % len(have)],
                scanner=blend(scanner, heterogeneity),
                seed=derive_seed("phantom", seed, "mnms2", vendor, index),
            )
            for index in range(patients.get(vendor, 0))
        ]
    return examinations


def _at(
    place: str, patients: Mapping[str, int] | None, diseases: Mapping[str, Sequence[str]] | None
) -> Mapping[str, Sequence[str]] | None:
    """Return diseases by vendor; where a place is given, only its patients have ``PATHOLOGY``."""
    if not place:
        return diseases
    names = {name: vendor for vendor in VENDORS for name in (vendor, site_name("VENDOR", vendor))}
    there = {name.lower(): vendor for name, vendor in names.items()}.get(place.lower())
    if there is None:
        raise UserError(f"pathology-at: found {place!r}, expected one of {', '.join(names)}")
    if not (PATIENTS if patients is None else patients).get(there, 0):
        raise UserError(f"pathology-at: {place} has no patients, expected some")
    given = dict.fromkeys(VENDORS, MNMS2_DISEASES) | dict(diseases or {})
    elsewhere = {vendor: _without_pathology(have) for vendor, have in given.items()}
    return elsewhere | {there: (PATHOLOGY,)}


def _without_pathology(diseases: Sequence[str]) -> Sequence[str]:
    return [disease for disease in diseases if disease != PATHOLOGY]


def _check_count(name: str, count: int, least: int, most: float = math.inf) -> None:
    if type(count) is not int or not least <= count <= most:
        limit = f"{least} or more" if most == math.inf else f"{least} to {most}"
        raise UserError(f"{name}: found {count}, expected a whole number, {limit}")


def _checked_diseases(diseases: Sequence[str]) -> Sequence[str]:
    unknown = [disease for disease in diseases if disease not in DISEASES]
    if unknown or not diseases:
        found = ", ".join(map(repr, unknown)) or "none"
        raise UserError(f"diseases: found {found}, expected some of {', '.join(DISEASES)}")
    return diseases


def _write(
    out: Path, layouts: Mapping[str, Sequence[Examination]], progress: Progress | None
) -> None:
    """Write layouts into ``out``, each whole or not at all; all at once where ``out`` is new."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, expected a folder")
    for name in layouts:
        empty = (out / name).is_dir() and not any((out / name).iterdir())
        if (out / name).exists() and not empty:
            raise UserError(f"{out / name}: holds something already; expected it new or empty")
    is_new = not out.exists()
    home = out.parent if is_new else out
    home.mkdir(parents=True, exist_ok=True)
    done, total = 0, sum(map(len, layouts.values()))
    with TemporaryDirectory(dir=home, prefix=".phantom-") as unfinished:
        made = Path(unfinished, out.name)
        for name, examinations in layouts.items():
            folder = made / name
            folder.mkdir(parents=True)
            for examination in examinations:
                (write_acdc_patient if name == "acdc" else write_mnms2_patient)(folder, examination)
                done += 1
                if progress:
                    progress(done, total)
            if name == "mnms2":
                write_mnms2_table(folder, examinations)
        if is_new:
            made.rename(out)
        else:
            for name in layouts:
                (made / name).rename(out / name)
