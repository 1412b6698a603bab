"""``rate-my-lora export``: a model in the formats of other tools, with a model card."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import AdapterFile, ConfigFile
from common.console import console
from results.export.exported_model import read_model
from results.export.formats import ALL, check_new, chosen_formats, write_all
from results.export.onnx_file import check_packages


def export(
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty.")],
    base: Annotated[
        Path | None,
        typer.Option(help="Base file.", show_default="the run's base-model"),
    ] = None,
    adapter: AdapterFile = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder of a run that gives adapter, configuration and figures."),
    ] = None,
    config: ConfigFile = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="safetensors, onnx, bundle, peft or all; may be repeated."),
    ] = None,
) -> None:
    """Write a base model, with an adapter folded in if given, for other tools, and a model card."""
    chosen = chosen_formats(formats or [ALL], has_adapter=adapter is not None or run is not None)
    if "onnx" in chosen:
        check_packages()
    check_new(out)
    for path in write_all(read_model(base, adapter, run, config), chosen, out):
        console.print(str(path))
