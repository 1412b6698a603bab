"""Summarise each scanner of a folder: its cases, spacing and intensities."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cardiac.datasets import site_name
from cardiac.inspection.case import CaseReport
from cardiac.inspection.folder import Sites

SCANNER_COLUMNS = ("VENDOR", "SCANNER", "FIELD")
"""Columns of M&Ms-2 that name a scanner; ACDC has no such columns."""
Range = tuple[float, float] | None
"""Least and largest value; None where nothing is known."""


@dataclass(frozen=True)
class ScannerRow:
    """The summary of one scanner of one site."""

    site: str
    scanner: str
    patients: int
    frames: int
    slices: int
    slices_per_frame: Range
    in_plane_mm: Range
    slice_mm: Range
    intensities: Range
    """Medians of the 1st and the 99th percentile."""


def scanner_rows(sites: Sites) -> list[ScannerRow]:
    """Return rows sorted by site and scanner."""
    groups: dict[tuple[str, str], list[CaseReport]] = {}
    for site, reports in sites.items():
        for report in reports:
            groups.setdefault((site, _scanner(report, site)), []).append(report)
    return [_row(site, scanner, group) for (site, scanner), group in sorted(groups.items())]


def _scanner(report: CaseReport, site: str) -> str:
    """Return a scanner's name, without its vendor where the site is named after the vendor."""
    parts = {column: report.case.info.get(column, "") for column in SCANNER_COLUMNS}
    if site_name("VENDOR", parts["VENDOR"]) == site:
        parts["VENDOR"] = ""
    return " ".join(part for part in parts.values() if part)


def _row(site: str, scanner: str, reports: Sequence[CaseReport]) -> ScannerRow:
    depths = [report.shape[2] for report in reports if report.shape]
    spacings = [report.spacing_mm for report in reports if report.spacing_mm is not None]
    quantiles = [report.intensities for report in reports if report.intensities is not None]
    low_high = np.median(quantiles, axis=0)[[0, -1]].tolist() if quantiles else []
    return ScannerRow(
        site,
        scanner,
        patients=len({report.case.patient for report in reports}),
        frames=len(reports),
        slices=sum(depths),
        slices_per_frame=_range(depths),
        in_plane_mm=_range([mm for spacing in spacings for mm in spacing[:2]]),
        slice_mm=_range([spacing[2] for spacing in spacings]),
        intensities=_range(low_high),
    )


def _range(values: Sequence[float]) -> Range:
    return (round(float(min(values)), 4), round(float(max(values)), 4)) if values else None
