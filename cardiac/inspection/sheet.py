"""Draw contact sheets: base, middle and apex of every case with outlines, page by page."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cardiac.faults import Fault, told
from cardiac.inspection.case import CaseReport
from cardiac.inspection.folder import Sites
from cardiac.inspection.thumbnails import SIDE
from cardiac.pictures import PAPER, montage, overlay, save_png

COLUMNS = 4
PANELS = 48
"""Most panels on a page, which has about 1300 × 1500 pixels."""


def write_sheets(sites: Sites, findings: Sequence[Fault], folder: Path) -> list[Path]:
    """Write ``sheet-SITE.png``, and ``sheet-SITE-2.png`` … for cases that do not fit on it.

    Raises
    ------
    UserError
        A page cannot be written.
    """
    pages = []
    for site, reports in sites.items():
        stem = "sheet-" + (re.sub(r"[^\w.-]+", "_", site) or "_")
        for number, page in enumerate(sheets(reports, findings), start=1):
            path = folder / (f"{stem}-{number}.png" if number > 1 else f"{stem}.png")
            save_png(page, path)
            pages.append(path)
    return pages


def sheets(reports: Sequence[CaseReport], findings: Sequence[Fault]) -> Iterator[np.ndarray]:
    """Yield pages (h, w, 3) with a panel for each case, under its name and number of faults."""
    by_name: dict[str, list[Fault]] = {}
    for finding in findings:
        by_name.setdefault(finding.case, []).append(finding)
    for start in range(0, len(reports), PANELS):
        part = reports[start : start + PANELS]
        captions = [_caption(report, by_name) for report in part]
        yield montage([panel(report) for report in part], COLUMNS, captions)


def panel(report: CaseReport) -> np.ndarray:
    """Return a case's three slices side by side in the network's view; grey without an image."""
    if report.thumbnails is None:
        return np.full((SIDE, 3 * SIDE, 3), 2 * PAPER, np.uint8)
    slices = zip(report.thumbnails.grey, report.thumbnails.label, strict=True)
    return np.concatenate([overlay(grey, label, scale=1) for grey, label in slices], axis=1)


def _caption(report: CaseReport, by_name: dict[str, list[Fault]]) -> str:
    case = report.case
    said = told([*by_name.get(case.name, []), *by_name.get(case.patient, [])])
    return f"{case.name}: {said}" if said else case.name
