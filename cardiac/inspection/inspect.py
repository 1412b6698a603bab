"""Inspect a whole folder, its cases in several processes."""

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
from cardiac.inspection.folder import Sites, check_duplicates, check_patients, check_site, divide
from cardiac.inspection.summary import ScannerRow, scanner_rows
from cardiac.splits import SMALLEST, Cohorts
from common.errors import UserError

FEW_CASES = 16
"""Most cases for one process: they are done before a worker process has started."""
REPORTED = ("severity", "code", "message", "case", "file")
"""Attributes of a fault in the JSON file."""
Progress = Callable[[int, int], None]
"""Called after each case with the number of cases done and in all."""


@dataclass(frozen=True)
class Inspection:
    """What the inspection of a folder found."""

    data_dir: Path
    layout: str
    sites: Sites
    findings: list[Fault]
    scanners: list[ScannerRow]

    @property
    def reports(self) -> list[CaseReport]:
        """The reports of all cases."""
        return [report for site in self.sites.values() for report in site]

    def counts(self) -> dict[Severity, int]:
        """Return the number of findings of each severity."""
        return counts(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
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
    least: Cohorts = SMALLEST,
    jobs: int = 1,
    pictures: bool = False,
    progress: Progress | None = None,
) -> Inspection:
    """Inspect every case of a folder, and the cases against each other.

    Parameters
    ----------
    data_dir, affine_axes
        As for :func:`cardiac.datasets.list_cases`.
    split_by
        Column whose values are the sites; None for VENDOR or site, where there is one.
    split_seed
        Seed of the splits, which must not share an image.
    least
        The fewest patients of each split.
    jobs
        Number of processes.
    pictures
        Whether to keep thumbnails for `sheet`.
    progress
        See ``Progress``.

    Raises
    ------
    UserError
        :func:`cardiac.datasets.list_cases` refuses the folder, or a worker process was killed.
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
        findings += check_site(site, members, least)
    findings += check_duplicates(sites, split_seed, least)
    return Inspection(data_dir, listing.layout, sites, by_severity(findings), scanner_rows(sites))


def inspect_cases(cases: Sequence[Case], jobs: int, *, pictures: bool) -> Iterator[CaseReport]:
    """Yield the report of every case, in the cases' order."""
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
    """Keep worker processes from importing the started command and torch, which takes 5 s."""
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
