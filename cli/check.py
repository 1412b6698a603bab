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
from cli.options import LAYOUTS
from common.console import console
from common.files import finite, write_text
from common.progress import progress
from common.writable import check_file, check_folder

MOST_ROWS = 8
"""Of one code; a fault of the export is in every case."""
STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def check(
    data: Annotated[Path, typer.Argument(metavar="DIR", help=LAYOUTS)],
    affine_axes: Annotated[
        Literal["LPS", "RAS"],
        typer.Option(help="What the affines hold, unless dataset.toml says it."),
    ] = "LPS",
    split_by: Annotated[
        str | None,
        typer.Option(help="Column whose values are the sites.", show_default="VENDOR or site"),
    ] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="The run's split-seed.")] = 0,
    json_out: Annotated[
        Path | None, typer.Option("--json", help="Where to write all findings.")
    ] = None,
    sheets: Annotated[
        Path | None,
        typer.Option(help="Folder for contact sheets: every case with its outlines, as PNG."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Status 1 on warnings.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes.", show_default="number of cores")
    ] = None,
) -> None:
    """Look for faults in a site's data; status 2 with errors, 0 without."""
    if json_out is not None:
        check_file(json_out)
    if sheets is not None:
        check_folder(sheets)
    with progress(console) as report:
        inspection = inspect_folder(
            data,
            affine_axes=affine_axes,
            split_by=split_by,
            split_seed=split_seed,
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
    raise typer.Exit(status(inspection, strict=strict))


def status(inspection: Inspection, *, strict: bool) -> int:
    """Return the command's exit status: 2 with errors, 1 with warnings that count, or 0."""
    counts = inspection.counts()
    if counts["error"]:
        return 2
    return 1 if strict and counts["warning"] else 0


def conclusion(inspection: Inspection) -> str:
    """Return the last line."""
    cases = inspection.reports
    patients = len({report.case.patient for report in cases})
    said = told(inspection.findings) or "nothing found"
    return (
        f"{inspection.data_dir} ({inspection.layout}): {patients} patients, {len(cases)} cases: "
        f"{said}"
    )


def plain_table(title: str) -> Table:
    """Return an empty table that leaves most of the width to its content."""
    return Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
    )


def findings_table(findings: Sequence[Fault]) -> Table:
    """Return findings as a table for people, the worst first and of each code only some."""
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
    """Return what there is of every scanner as a table for people."""
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
