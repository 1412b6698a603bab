"""What several commands have in common: their options, and how they end."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import UserError

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with run configuration keys.")
]
BaseFile = Annotated[Path, typer.Option("--base", help="Base file.")]
AdapterFile = Annotated[Path | None, typer.Option("--adapter", help="Adapter file of a run.")]
DataFolder = Annotated[Path, typer.Option("--data", help="Folder in ACDC or M&Ms-2 layout.")]


def run_command(app: typer.Typer) -> None:
    """Run what was typed; a person's mistake ends in one line and status 2."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"Error: {error}", markup=False)
        sys.exit(2)
