"""Inspect a whole folder, case by case in several processes."""

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from cardiac.datasets import Case, list_cases
from cardiac.faults import Fault, Severity, by_severity, counts
from cardiac.inspection.case import CaseReport, inspect_case
from cardiac.inspection.folder import Sites, check_duplicates, check_site, divide
from cardiac.inspection.patients import check_patients
from cardiac.inspection.summary import ScannerRow, scanner_rows
from common.errors import UserError

FEW_CASES = 16
"""So many are inspected before a worker process has started."""

REPORTED = ("severity", "code", "message", "case", "file")
"""What a JSON file says of a fault."""

Progress = Callable[[int, int], None]
"""Called with the number of cases done and to do."""


@dataclass(frozen=True)
class Inspection:
    """All that was found in a folder."""

    data_dir: Path
    layout: str
    sites: Sites
    findings: list[Fault]
    scanners: list[ScannerRow]

    @property
    def reports(self) -> list[CaseReport]:
        """Of all cases."""
        return [report for site in self.sites.values() for report in site]

    def counts(self) -> dict[Severity, int]:
        """Return how many findings there are of each severity."""
        return counts(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return what belongs in a JSON file."""
        return {
            "data_dir": str(self.data_dir),
            "layout": self.layout,
            "counts": self.counts(),
            "findings": [
                {name: getattr(fault, name) for name in REPORTED} for fault in self.findings
            ],
            "scanners": [asdict(row) for row in self.scanners],
            "cases": [
                {"site": site, **_facts(report)}
                for site, reports in self.sites.items()
                for report in reports
            ],
        }


def inspect_folder(
    data_dir: Path,
    *,
    affine_axes: str = "LPS",
    split_by: str | None = None,
    split_seed: int = 0,
    jobs: int = 1,
    pictures: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Look at every case of a folder and at what they have to do with each other.

    Parameters
    ----------
    data_dir
        A folder in a layout of :func:`cardiac.datasets.list_cases`.
    affine_axes
        What the first two axes of the affines are, ``LPS`` or ``RAS``; ``dataset.toml`` says it
        for its own folder.
    split_by
        Column whose values are the sites; None for VENDOR or site, where there is one.
    split_seed
        Of the splits that must not share an image.
    jobs
        Processes to use.
    pictures
        Whether to keep thumbnails for `sheet`.
    progress
        See ``Progress``.

    Raises
    ------
    UserError
        The folder is missing, of no such layout or empty, or a worker process was killed.
    """
    listing = list_cases(data_dir, affine_axes)
    reports = []
    for report in inspect_cases(listing.cases, jobs, pictures=pictures):
        reports.append(report)
        if progress is not None:
            progress(len(reports), len(listing.cases))
    sites, findings = divide(listing, reports, split_by, data_dir)
    findings += listing.faults
    findings += [finding for report in reports for finding in report.findings]
    findings += check_patients(reports)
    for site, members in sites.items():
        findings += check_site(site, members)
    findings += check_duplicates(sites, split_seed)
    return Inspection(data_dir, listing.layout, sites, by_severity(findings), scanner_rows(sites))


def inspect_cases(cases: Sequence[Case], jobs: int, *, pictures: bool) -> Iterator[CaseReport]:
    """Yield a report of every case, in their order."""
    look = partial(inspect_case, pictures=pictures)
    if jobs == 1 or len(cases) <= FEW_CASES:
        yield from map(look, cases)
        return
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        with _nothing_to_import():
            futures: list[Future[CaseReport]] = [pool.submit(look, case) for case in cases]
        while futures:
            yield futures.pop(0).result()
    except BrokenProcessPool:
        raise UserError(
            f"jobs: one of {jobs} processes was killed, perhaps for want of memory; try --jobs 1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _nothing_to_import() -> Iterator[None]:
    """Keep new processes from importing the command that started us, and torch with it: 5 s."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _facts(report: CaseReport) -> dict[str, Any]:
    case = report.case
    return {
        "case": case.name,
        "patient": case.patient,
        "frame": case.frame,
        "shape": report.shape and list(report.shape),
        "spacing_mm": None if report.spacing_mm is None else report.spacing_mm.tolist(),
        "intensities": report.intensities,
        "volumes_ml": report.volumes_ml,
        "findings": sorted({finding.code for finding in report.findings}),
    }
