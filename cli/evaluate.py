"""``rate-my-lora evaluate``: Dice and HD95 of a model on a folder of cases."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from cardiac import scoring
from cli.options import AdapterFile, BaseFile, ConfigFile, DataFolder
from common.console import console
from common.files import finite, write_text
from common.labels import STRUCTURES
from common.progress import progress
from server_app.run_config import load_config

CaseChoice = Literal["all", "train", "val", "test"]


def evaluate(
    base: BaseFile,
    data: DataFolder,
    adapter: AdapterFile = None,
    split_by: Annotated[
        str | None,
        typer.Option(help="Column whose values are the sites.", show_default="VENDOR or site"),
    ] = None,
    cases: Annotated[CaseChoice, typer.Option(help="Patients of every site to score.")] = "all",
    config: ConfigFile = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="JSON file for scores.")] = None,
) -> None:
    """Score a base model, with or without an adapter, on every case of a folder."""
    settings = load_config(config)
    model = scoring.load_model(base, adapter, settings)
    groups = scoring.site_groups(data, split_by, settings.data.affine_axes)
    split = None if cases == "all" else cases
    with progress(console) as report:
        scores = scoring.score_folder(model, groups, split, settings, report)
    if json_out is not None:
        write_text(json_out, json.dumps(finite(scores), indent=2) + "\n")
    console.print(scores_table(scores))


def scores_table(scores: Mapping[str, Any]) -> Table:
    """Return a table of Dice and HD95: a row for each site, and one for the mean over cases."""
    table = Table(title="Dice (HD95 in mm)")
    columns = (*STRUCTURES, "mean")
    for name in ("site", "cases", *columns):
        table.add_column(name, justify="left" if name == "site" else "right")
    rows = {**scores["groups"], "mean over cases": scores["mean"]}
    for name, row in rows.items():
        cells = (f"{row['dice'][c]:.3f} ({row['hd95_mm'][c]:.1f})" for c in columns)
        table.add_row(name, str(row.get("cases", "")), *cells)
    return table
