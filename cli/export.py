"""``rate-my-lora export``: a result in the forms that other tools take, with its model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.options import AdapterFile, ConfigFile
from common.console import console
from common.errors import UserError
from common.files import write_text
from common.peft_format import CONFIG_FILE, TENSOR_FILE, save_peft
from results.export.bundle import write_bundle
from results.export.model_card import model_card
from results.export.onnx_file import check_packages, write_onnx
from results.export.source import Source, open_source
from results.export.weights import write_weights

FORMATS = ("safetensors", "onnx", "bundle", "peft")
ALL = "all"
CARD = "MODEL_CARD.md"


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
    chosen = _chosen(formats or [ALL], has_adapter=adapter is not None or run is not None)
    if "onnx" in chosen:
        check_packages()
    _check_new(out)
    source = open_source(base, adapter, run, config)
    files = write_all(source, chosen, out)
    for path in files:
        console.print(str(path))


def write_all(source: Source, formats: Sequence[str], out: Path) -> list[Path]:
    """Write the formats and the card into a folder and return all files, the card last."""
    files: list[Path] = []
    if "safetensors" in formats:
        files += write_weights(source, out)
    if "onnx" in formats:
        write_onnx(source, out / "model.onnx")
        files.append(out / "model.onnx")
    if "bundle" in formats:
        files += write_bundle(source, out / "bundle")
    if "peft" in formats and source.adapter is not None:
        save_peft(source.adapter.adapter, source.network, out / "peft")
        files += [out / "peft" / CONFIG_FILE, out / "peft" / TENSOR_FILE]
    card = model_card(source, formats, files, out)
    cards = [out / CARD]
    if "bundle" in formats:
        cards.insert(0, out / "bundle" / "docs" / "README.md")
    for path in cards:
        write_text(path, card)
    return [*files, *cards]


def _chosen(names: Sequence[str], *, has_adapter: bool) -> list[str]:
    """Return the formats to write, in order.

    Raises
    ------
    UserError
        A format is unknown, or it is the adapter's and there is none.
    """
    for name in names:
        if name not in (*FORMATS, ALL):
            raise UserError(f"--format: found {name!r}, expected one of {', '.join(FORMATS)}, all")
    if "peft" in names and not has_adapter:
        raise UserError("--format peft: is of an adapter, expected --adapter or --run")
    return [
        name
        for name in FORMATS
        if name in names or (ALL in names and (name != "peft" or has_adapter))
    ]


def _check_new(out: Path) -> None:
    """Refuse a folder that holds something: files of two models beside each other mislead.

    Raises
    ------
    UserError
        The folder is not empty, or is none.
    """
    try:
        found = next(out.iterdir(), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror})") from None
    if found is not None:
        raise UserError(f"{out}: holds {found.name}, expected it new or empty")
