"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="TOML file with keys of the run configuration.")
]
BaseFile = Annotated[Path, typer.Option("--base", help="File of the base model.")]
AdapterFile = Annotated[Path | None, typer.Option("--adapter", help="Adapter file of a run.")]
LAYOUTS = "Folder in the layout of ACDC, M&Ms, M&Ms-2 or nnU-Net, or with a dataset.toml."
DataFolder = Annotated[Path, typer.Option("--data", help=LAYOUTS)]
