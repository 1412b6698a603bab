"""``rate-my-lora``: the commands that a person types."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from cli import scoring
from cli.audit import audit
from cli.certificates import authority, site_key
from cli.check import check
from cli.compare import compare
from cli.export import export
from cli.join import join
from cli.predict import predict
from cli.progress import progress
from cli.report import report
from cli.shared import AdapterFile, BaseFile, ConfigFile, DataFolder, console
from cli.superlink import superlink
from cli.watch import watch
from client_app import pretraining
from client_app.phantom import VENDORS, write_phantom
from common.errors import UserError
from common.files import finite, write_text
from common.labels import STRUCTURES
from server_app.settings import load_config

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

CaseChoice = Literal["all", "train", "val", "test"]


COMMANDS = (check, predict, export, report, compare, watch, join, audit, authority, site_key)
for command in COMMANDS:
    app.command()(command)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(superlink)


@app.callback()
def commands() -> None:
    """Federated LoRA for cardiac MRI segmentation, rated by every hospital."""


@app.command()
def pretrain(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Base file to write.")],
    config: ConfigFile = None,
) -> None:
    """Train the base model on one data folder; goes on where it was stopped."""
    settings = load_config(config)
    with progress(console) as report:
        sha256, scores = pretraining.pretrain(data, out, settings, report)
    console.print(f"{out}: SHA-256 {sha256}")
    console.print(f"Dice on {scores.cases} held-out cases: {scores.mean_dice:.4f}")


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; acdc/ and mnms2/ come into it.")],
    seed: Annotated[int, typer.Option(min=0, help="Seeds every patient.")] = 0,
    heterogeneity: Annotated[
        float, typer.Option(min=0.0, help="How far the vendors' looks lie apart; 0: all alike.")
    ] = 1.0,
    pathology_at: Annotated[
        str, typer.Option(help="Vendor whose patients, and no others, have a dilated RV.")
    ] = "",
    patients: Annotated[
        int | None, typer.Option(min=1, help="Of every vendor; otherwise 8 of GE and 16 of two.")
    ] = None,
) -> None:
    """Write synthetic hearts as NIfTI in the ACDC and the M&Ms-2 layout."""
    with progress(console) as report:
        write_phantom(
            out,
            seed=seed,
            patients=None if patients is None else dict.fromkeys(VENDORS, patients),
            heterogeneity=heterogeneity,
            pathology_at=pathology_at,
            progress=lambda done, total: report("making patients", done, total, 0.0),
        )
    console.print(f"{out / 'acdc'}: one scanner, to pretrain on")
    console.print(f"{out / 'mnms2'}: three vendors, to federate")


@app.command()
def evaluate(
    base: BaseFile,
    data: DataFolder,
    adapter: AdapterFile = None,
    split_by: Annotated[
        str | None, typer.Option(help="Column whose values are the sites.", show_default="VENDOR")
    ] = None,
    cases: Annotated[CaseChoice, typer.Option(help="Which patients of every site.")] = "all",
    config: ConfigFile = None,
    json_out: Annotated[Path | None, typer.Option("--json", help="Where to write scores.")] = None,
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
    """Return scores as a table for people."""
    table = Table(title="Dice (HD95 in mm)")
    columns = (*STRUCTURES, "mean")
    for name in ("site", "cases", *columns):
        table.add_column(name, justify="left" if name == "site" else "right")
    rows = {**scores["groups"], "mean over cases": scores["mean"]}
    for name, row in rows.items():
        cells = (f"{row['dice'][c]:.3f} ({row['hd95_mm'][c]:.1f})" for c in columns)
        table.add_row(name, str(row.get("cases", "")), *cells)
    return table


def main() -> None:
    """Run a command; a person's mistake ends in one line and status 2."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
