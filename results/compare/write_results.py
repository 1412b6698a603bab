"""Writes tables and pictures of a comparison, and shows its means in the terminal."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from common.files import write_text
from common.text import number
from results.compare.figures import across_settings, draw_all
from results.compare.folder import JobFolder, file_name
from results.compare.plan import Plan, place
from results.compare.result_tables import markdown, save_csv
from results.compare.row_results import RowResult, collect
from server_app.curves import save


def write_results(plan: Plan, folders: Sequence[JobFolder], out: Path, console: Console) -> bool:
    """Write tables and pictures into ``out``, and return whether a run is missing."""
    rows = collect(plan, folders)
    pictures = {s: _draw([r for r in rows if r.setting == s], s, out) for s in plan.settings}
    overview = []
    if len(plan.settings) > 1 and any(row.finished for row in rows):
        figure = across_settings(rows, list(plan.settings))
        overview = [_save(figure, out / "plots" / "across-settings.png", out)]
    write_text(out / "results.md", markdown(plan, rows, pictures, overview))
    save_csv(plan, rows, out)
    console.print(_table(rows))
    for row in rows:
        for seed, why in row.missing.items():
            console.print(f"missing: {place(row.setting, row.row)}, seed {seed}: {why}")
    console.print(f"results: {out / 'results.md'}, results.csv, results-long.csv, plots/")
    return any(row.missing for row in rows)


def _draw(rows: Sequence[RowResult], setting: str, out: Path) -> list[str]:
    """Draw a setting's pictures and return their links in the page."""
    before = f"{file_name(setting)}-" if setting else ""
    return [
        _save(figure, out / "plots" / f"{before}{name}.png", out)
        for name, figure in draw_all(rows).items()
    ]


def _save(figure: Figure, path: Path, out: Path) -> str:
    """Write a picture and return its link in the page."""
    save(figure, path)
    return quote(str(path.relative_to(out)))


def _table(rows: Sequence[RowResult]) -> Table:
    """Return the table for a terminal: the means alone."""
    table = Table(title="Dice on test patients, mean over seeds")
    table.add_column("method")
    for name in ("seeds", "in-client", "HD95 mm", "cross-client", "adapted"):
        table.add_column(name, justify="right")
    for row in rows:
        total = len(row.finished) + len(row.missing)
        table.add_row(
            place(row.setting, row.row),
            f"{len(row.finished)} of {total}",
            number(row.in_client["mean"].mean),
            number(row.hd95_mm.mean, 1),
            number(row.cross_client.mean),
            number(row.adapted.mean),
        )
    return table
