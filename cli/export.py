"""``rate-my-lora export``: a result in the forms that other tools take, with its model card."""

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
        typer.Option(help="Folder of a run: its adapter, configuration and figures."),
    ] = None,
    config: ConfigFile = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="safetensors, onnx, bundle, peft or all; may be repeated."),
    ] = None,
) -> None:
    """Write a base, with its adapter folded in, for other tools, and a model card."""
    chosen = chosen_formats(formats or [ALL], has_adapter=adapter is not None or run is not None)
    if "onnx" in chosen:
        check_packages()
    check_new(out)
    source = read_model(base, adapter, run, config)
    files = write_all(source, chosen, out)
    for path in files:
        console.print(str(path))
