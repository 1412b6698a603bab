"""The formats of an export, and all of its files written into one folder."""

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.files import write_text
from common.peft_format import CONFIG_FILE, TENSOR_FILE, save_peft
from results.export.bundle import write_bundle
from results.export.exported_model import ExportedModel
from results.export.model_card import model_card
from results.export.onnx_file import write_onnx
from results.export.weights import write_weights

FORMATS = ("safetensors", "onnx", "bundle", "peft")
ALL = "all"
CARD = "MODEL_CARD.md"


def write_all(source: ExportedModel, formats: Sequence[str], out: Path) -> list[Path]:
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


def chosen_formats(names: Sequence[str], *, has_adapter: bool) -> list[str]:
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


def check_new(out: Path) -> None:
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
