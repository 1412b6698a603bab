"""One case: from its two files to findings, facts and thumbnails."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from cardiac.clinical import volumes_ml
from cardiac.datasets import Case
from cardiac.inspection import anatomy, grid, intensities, orientation
from cardiac.inspection.findings import Finding
from cardiac.inspection.reading import ReadFaultError, Stack, read_stack
from cardiac.inspection.thumbnails import Thumbnails, thumbnails
from cardiac.view import lps_affine
from common.labels import LV, MYO, RV, STRUCTURES

LEAST_CONTRAST = 0.2
"""Of blood against myocardium, in standard deviations within the heart; 0.75 in real data."""


@dataclass
class CaseReport:
    """What is known of a case after its files were looked at.

    Facts are None where the files do not tell them.

    Attributes
    ----------
    shape
        (i, j, k) of the image.
    spacing_mm
        (3,) along i, j, k.
    image_hashes
        Digests of the image's voxels as stored, and in order of intensity.
    label_hash
        Digest of a label that is not empty.
    intensities
        1st, 50th and 99th percentile.
    volumes_ml
        By structure.
    rv_deg
        See `orientation.rv_direction_deg`.
    """

    case: Case
    findings: list[Finding] = field(default_factory=list)
    shape: tuple[int, ...] | None = None
    spacing_mm: np.ndarray | None = None
    image_hashes: tuple[str, str] | None = None
    label_hash: str | None = None
    intensities: list[float] | None = None
    volumes_ml: dict[str, float] | None = None
    rv_deg: float | None = None
    thumbnails: Thumbnails | None = None

    def found(self, faults: Iterable[tuple[str, str]], file: str = "") -> None:
        """Note faults of this case, or of one of its files."""
        self.findings += [Finding(code, text, self.case.name, file) for code, text in faults]

    def has(self, *codes: str) -> bool:
        """Say whether one of these codes was found."""
        return any(finding.code in codes for finding in self.findings)


def inspect_case(case: Case, *, pictures: bool) -> CaseReport:
    """Look at one case; whatever it holds, this returns."""
    report = CaseReport(case)
    try:
        _inspect(report, pictures)
    except Exception as error:  # a case that we did not think of must not stop the others
        report.found([("check-failed", f"cannot be looked at ({type(error).__name__}: {error})")])
    return report


def _inspect(report: CaseReport, pictures: bool) -> None:
    case = report.case
    image, label = _read(report, case.image.name), _read(report, case.label.name)
    if image is not None:
        _inspect_image(report, image)
    canonical = None
    if label is not None:
        faults, canonical = to_canonical(label.data, case)
        report.found(faults, case.label.name)
    if image is not None and label is not None:
        report.found(grid.check_same_grid(image, label), case.label.name)
    if report.has("shape-differs"):
        canonical = None
    if canonical is not None:
        report.label_hash = intensities.digest(canonical)
        affine = None if image is None or image.spacing_mm is None else image.affine
        report.found(_label_faults(report, canonical, affine), case.label.name)
        if image is not None and not report.has("label-numbering"):
            report.found(_contrast(image.data, canonical), case.label.name)
    if pictures and image is not None:
        affine = None if image.spacing_mm is None else image.affine
        report.thumbnails = thumbnails(image.data, canonical, affine)


def _read(report: CaseReport, name: str) -> Stack | None:
    try:
        stack = read_stack(report.case.image.with_name(name), report.case.frame_index)
        return replace(stack, affine=lps_affine(stack.affine, report.case.axes))
    except ReadFaultError as fault:
        report.found([(fault.code, str(fault))], name)
        return None


def _inspect_image(report: CaseReport, image: Stack) -> None:
    name = report.case.image.name
    report.shape, report.spacing_mm = image.data.shape, image.spacing_mm
    report.found(intensities.check_image(image.data), name)
    if report.spacing_mm is None:
        fault = "the affine is degenerate, spacing and orientation are unknown"
        report.found([("affine-degenerate", fault)], name)
    else:
        report.found(orientation.check_affine(image.affine), name)
        report.found(grid.check_grid(image.data.shape, report.spacing_mm), name)
        report.found(grid.check_header(image, report.spacing_mm), name)
    if not report.has("image-not-finite", "image-constant"):
        in_order = intensities.ascending(image.data)
        report.image_hashes = intensities.digest(image.data), intensities.digest(in_order)
        report.intensities = intensities.quantiles(in_order)


def to_canonical(stored: np.ndarray, case: Case) -> tuple[list[tuple[str, str]], np.ndarray | None]:
    """Map a label's values onto ours, uint8; None, with the fault, where they are not known."""
    values = np.unique(stored)
    known = sorted(case.label_map)
    if not np.isin(values, known).all():
        strange = [f"{value:g}" for value in values if value not in case.label_map]
        shown = ", ".join(strange[:4]) + (" …" if len(strange) > 4 else "")
        whole = np.isfinite(values).all() and (values == np.rint(values)).all()
        code = "label-values" if whole else "label-not-whole"
        return [(code, f"holds {shown}; expected {', '.join(map(str, known))}")], None
    table = np.zeros(max(known) + 1, np.uint8)
    for value, canonical in case.label_map.items():
        table[value] = canonical
    canonical_label: np.ndarray = table[stored.astype(np.uint8)]
    if not canonical_label.any():
        return [("label-empty", "holds no structure at all, expected LV, MYO and RV")], None
    return [], canonical_label


def _label_faults(
    report: CaseReport, canonical: np.ndarray, affine: np.ndarray | None
) -> Iterator[tuple[str, str]]:
    present = [name for n, name in enumerate(STRUCTURES, 1) if (canonical == n).any()]
    missing = [name for name in STRUCTURES if name not in present]
    if missing:
        yield "structure-missing", f"has no {' and no '.join(missing)}, expected all three"
    edges = np.concatenate([canonical[[0, -1]].ravel(), canonical[:, [0, -1]].ravel()])
    if edges.any():
        yield "label-cut", "the label reaches the slice's edge, expected the whole heart in view"
    box = ndimage.find_objects((canonical > 0).astype(np.uint8))[0]
    heart = np.pad(canonical[box], ((1, 1), (1, 1), (0, 0)))  # only what is near matters below
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


def _contrast(image: np.ndarray, canonical: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield a fault where blood is no brighter than myocardium, as it is in every cine image."""
    if not ((canonical == LV).any() and (canonical == MYO).any()):
        return
    blood, muscle = (float(image[canonical == part].mean()) for part in (LV, MYO))
    if not blood - muscle > LEAST_CONTRAST * float(image[canonical > 0].std()):
        yield (
            "blood-dark",
            f"under it the image has a mean of {blood:.4g} in LV and {muscle:.4g} in MYO, expected "
            "clearly brighter blood; does the label lie where the heart is?",
        )
