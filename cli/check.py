"""``rate-my-lora check``: what a hospital runs on its data before it joins."""

import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from cardiac.faults import Fault, told
from cardiac.inspection.inspect import Inspection, inspect_folder
from cardiac.inspection.sheet import write_sheets
from cardiac.inspection.summary import Range, ScannerRow
from cardiac.splits import SMALLEST
from cli.options import LAYOUTS
from client_app.connection import read_site_file
from common.console import console
from common.files import finite, write_text
from common.progress import progress
from common.writable import check_file, check_folder

MOST_ROWS = 8
"""Rows for one code at most, as a fault of the export is in every case."""
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def check(
    data: Annotated[Path, typer.Argument(metavar="DIR", help=LAYOUTS)],
    affine_axes: Annotated[
        Literal["LPS", "RAS"],
        typer.Option(help="Convention of the affines, unless dataset.toml says it."),
    ] = "LPS",
    split_by: Annotated[
        str | None,
        typer.Option(help="Column whose values are the sites.", show_default="VENDOR or site"),
    ] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="The split-seed of the site's file.")] = 0,
    site_file: Annotated[
        Path | None,
        typer.Option(help="TOML file of the site, for its split and the patients that it needs."),
    ] = None,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="JSON file for all findings.")
    ] = None,
    sheets: Annotated[
        Path | None,
        typer.Option(help="Folder for contact sheets: PNGs of every case with its outlines."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Status 1 if there are warnings.")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes at a time.", show_default="number of cores")
    ] = None,
) -> None:
    """Look for faults in a site's data; status 2 with errors, 0 without."""
    if json_out is not None:
        check_file(json_out)
    if sheets is not None:
        check_folder(sheets)
    axes, least = str(affine_axes), SMALLEST
    if site_file is not None:
        site = read_site_file(site_file).site
        axes, split_by, split_seed = site.affine_axes, site.split_by, site.split_seed
        least = site.cohorts()
    with progress(console) as report:
        inspection = inspect_folder(
            data,
            affine_axes=axes,
            split_by=split_by,
            split_seed=split_seed,
            least=least,
            jobs=jobs or len(os.sched_getaffinity(0)),
            pictures=sheets is not None,
            progress=lambda done, total: report("looking at cases", done, total, 0.0),
        )
    console.print(scanners_table(inspection.scanners), soft_wrap=False)
    if inspection.findings:
        console.print(findings_table(inspection.findings), soft_wrap=False)
    if json_out is not None:
        write_text(json_out, json.dumps(finite(inspection.as_dict()), indent=2) + "\n")
        console.print(f"all findings in {json_out}")
    if sheets is not None:
        pages = write_sheets(inspection.sites, inspection.findings, sheets)
        console.print(f"{len(pages)} contact sheet(s) in {sheets}")
    console.print(conclusion(inspection))
    counts = inspection.counts()
    raise typer.Exit(2 if counts["error"] else int(strict and counts["warning"] > 0))


def conclusion(inspection: Inspection) -> str:
    """Return the last line: the folder, its patients and cases, and the number of findings."""
    cases = inspection.reports
    patients = len({report.case.patient for report in cases})
    folder = f"{inspection.data_dir} ({inspection.layout})"
    said = told(inspection.findings) or "nothing found"
    return f"{folder}: {patients} patients, {len(cases)} cases: {said}"


def plain_table(title: str) -> Table:
    """Return an empty table with little space around its cells."""
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )


def findings_table(findings: Sequence[Fault]) -> Table:
    """Return findings, sorted by code, as a table with at most ``MOST_ROWS`` rows for each code."""
    table = plain_table("Findings")
    for name in ("", "code", "case"):
        table.add_column(name, no_wrap=True)
    table.add_column("found", ratio=1, overflow="fold")
    for code, group in groupby(findings, key=lambda finding: finding.code):
        same = list(group)
        severity = Text(same[0].severity, STYLES[same[0].severity])
        for finding in same[:MOST_ROWS]:
            where = f"{finding.file}: " if finding.file else ""
            table.add_row(severity, code, finding.case, where + finding.message)
        if len(same) > MOST_ROWS:
            rest = f"… {len(same) - MOST_ROWS} more; --json FILE writes them all"
            table.add_row(severity, code, "", rest)
    return table


def scanners_table(rows: Sequence[ScannerRow]) -> Table:
    """Return a table with one row for each site and scanner."""
    table = plain_table("Scanners")
    for name in ("site", "scanner"):
        table.add_column(name, min_width=9, overflow="fold")
    for name in ("patients", "frames", "slices", "pixel mm", "slice mm", "intensity"):
        table.add_column(name.replace(" ", "\n"), justify="right")
    for row in rows:
        table.add_row(
            row.site,
            row.scanner,
            str(row.patients),
            str(row.frames),
            f"{row.slices}\n({_range(row.slices_per_frame)})",
            *map(_range, (row.in_plane_mm, row.slice_mm, row.intensities)),
        )
    return table


def _range(values: Range) -> str:
    if values is None:
        return "?"
    low, high = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values)
    return low if low == high else f"{low}–{high}"
