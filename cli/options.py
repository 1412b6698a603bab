"""Options that several commands share, and how a command ends after an error."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import UserError

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with keys of the run configuration.")
]
BaseFile = Annotated[Path, typer.Option("--base", help="File of the base model.")]
AdapterFile = Annotated[Path | None, typer.Option("--adapter", help="Adapter file of a run.")]
LAYOUTS = "Folder in the layout of ACDC, M&Ms, M&Ms-2 or nnU-Net, or with a dataset.toml."
DataFolder = Annotated[Path, typer.Option("--data", help=LAYOUTS)]


def run_command(app: typer.Typer) -> None:
    """Run a command; a ``UserError`` becomes one line on stderr and status 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a file's name may hold what no encoding knows
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(2)
