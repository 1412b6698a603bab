"""Inspect one case: its files' faults, facts for the summary, and thumbnails."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from cardiac.case_files import read_case
from cardiac.clinical import volumes_ml
from cardiac.datasets import Case
from cardiac.faults import Fault
from cardiac.inspection import anatomy, grid, intensities, orientation
from cardiac.inspection.thumbnails import Thumbnails, thumbnails
from cardiac.nifti import Found, Stack, doubt_header
from common.labels import LV, MYO, RV, STRUCTURES

LEAST_CONTRAST = 0.2
"""Least contrast of blood against myocardium, in standard deviations of the intensities within
the heart; 0.75 in real data."""


@dataclass
class CaseReport:
    """What the inspection of a case found; facts are None where the files do not tell them."""

    case: Case
    findings: list[Fault] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    """Shape (i, j, k) of the image."""
    spacing_mm: np.ndarray | None = None
    """Spacing (3,) along i, j, k."""
    image_hashes: tuple[str, str] | None = None
    """Digests of the image's voxels as stored, and of the same in order of intensity."""
    label_hash: str | None = None
    """Digest of a label that is not empty."""
    intensities: list[float] | None = None
    """1st, 50th and 99th percentile of the image."""
    volumes_ml: dict[str, float] | None = None
    """Volume of each structure by its name."""
    rv_deg: float | None = None
    """Direction from LV to RV, see `orientation.rv_direction_deg`."""
    thumbnails: Thumbnails | None = None

    def found(self, faults: Found, path: Path | None = None) -> None:
        """Add faults of this case, or of one of its files, to the findings."""
        self.findings += [Fault(code, text, self.case.name, path) for code, text in faults]

    def has(self, *codes: str) -> bool:
        """Return whether one of these codes was found."""
        return any(finding.code in codes for finding in self.findings)


def inspect_case(case: Case, *, pictures: bool) -> CaseReport:
    """Inspect one case; an exception becomes the finding ``check-failed``."""
    report = CaseReport(case)
    try:
        _inspect(report, pictures)
    except Exception as error:  # an unforeseen case must not stop the others
        text = f"cannot be inspected ({type(error).__name__}: {error})"
        report.findings.append(Fault("check-failed", text, case.name))
    return report


def _inspect(report: CaseReport, pictures: bool) -> None:
    case, files = report.case, read_case(report.case)
    image, canonical = files.image, files.canonical
    report.findings += files.faults
    if image is not None:
        _inspect_image(report, image)
        if files.label is not None:
            report.found(grid.check_same_grid(image, files.label), case.label)
    affine = None if image is None or image.spacing_mm is None else image.affine
    if canonical is not None:
        report.label_hash = intensities.digest(canonical)
        report.found(_label_faults(report, canonical, affine), case.label)
        if image is not None and not report.has("label-numbering"):
            report.found(_contrast(image.data, canonical), case.label)
    if pictures and image is not None:
        report.thumbnails = thumbnails(image.data, canonical, affine)


def _inspect_image(report: CaseReport, image: Stack) -> None:
    path = report.case.image
    report.shape, report.spacing_mm = image.data.shape, image.spacing_mm
    if report.spacing_mm is not None:
        report.found(orientation.check_affine(image.affine), path)
        report.found(grid.check_grid(image.data.shape, report.spacing_mm), path)
        report.found(doubt_header(image), path)
    if not report.has("image-not-finite", "image-constant"):
        report.found(intensities.check_image(image.data), path)
        in_order = intensities.ascending(image.data)
        report.image_hashes = intensities.digest(image.data), intensities.digest(in_order)
        report.intensities = intensities.quantiles(in_order)


def _label_faults(report: CaseReport, canonical: np.ndarray, affine: np.ndarray | None) -> Found:
    present = [name for n, name in enumerate(STRUCTURES, 1) if (canonical == n).any()]
    missing = [name for name in STRUCTURES if name not in present]
    if missing:
        yield "structure-missing", f"has no {' and no '.join(missing)}, expected all three"
    edges = np.concatenate([canonical[[0, -1]].ravel(), canonical[:, [0, -1]].ravel()])
    if edges.any():
        yield "label-cut", "the label reaches the slice's edge, expected the whole heart in view"
    box = ndimage.find_objects((canonical > 0).astype(np.uint8))[0]
    heart = np.pad(canonical[box], ((1, 1), (1, 1), (0, 0)))  # the checks need only what is near
    shares = anatomy.rims(heart)
    roles = anatomy.played_by(shares)
    if roles is not None and roles != (LV, MYO, RV):
        yield "label-numbering", _numbering(report.case, roles)
        return
    if affine is not None and report.spacing_mm is not None:
        report.volumes_ml = volumes_ml(heart, report.spacing_mm)
        report.rv_deg = orientation.rv_direction_deg(heart, affine)
        yield from anatomy.check_contacts(shares)
        yield from anatomy.check_structures(heart, report.spacing_mm)
        yield from orientation.check_view(heart, affine)


def _numbering(case: Case, roles: tuple[int, int, int]) -> str:
    value_of = {canonical: value for value, canonical in case.label_map.items()}
    seen = (f"{name} {value_of[role]}" for name, role in zip(STRUCTURES, roles, strict=True))
    meant = (f"{name} {value_of[n]}" for n, name in enumerate(STRUCTURES, 1))
    return f"by its anatomy the numbers are {', '.join(seen)}; expected {', '.join(meant)}"


def _contrast(image: np.ndarray, canonical: np.ndarray) -> Found:
    """Yield a fault where blood is not brighter than myocardium, as it is in every cine image."""
    if not ((canonical == LV).any() and (canonical == MYO).any()):
        return
    blood, muscle = (float(image[canonical == part].mean()) for part in (LV, MYO))
    if not blood - muscle > LEAST_CONTRAST * float(image[canonical > 0].std()):
        means = f"under it the image has a mean of {blood:.4g} in LV and {muscle:.4g} in MYO"
        hint = "does the label lie where the heart is?"
        yield "blood-dark", f"{means}, expected clearly brighter blood; {hint}"
