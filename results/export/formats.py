"""The formats of an export, and the folder that its files are written into."""

from collections.abc import Sequence
from pathlib import Path

import tomli_w

from common.errors import UserError
from common.files import write_text
from common.model import save_base
from common.peft_format import CONFIG_FILE, TENSOR_FILE, save_peft
from results.export.bundle import write_bundle
from results.export.exported_model import ExportedModel
from results.export.model_card import model_card
from results.export.onnx_file import write_onnx

FORMATS = ("safetensors", "onnx", "bundle", "peft")
ALL = "all"
CARD = "MODEL_CARD.md"
CONFIG_KEYS = ("features", "spacing-mm")
"""Keys that ``evaluate`` and ``predict`` need beside a base file."""


def write_all(source: ExportedModel, formats: Sequence[str], out: Path) -> list[Path]:
    """Write the formats and the card into a folder, and return all files, the card last."""
    files: list[Path] = []
    if "safetensors" in formats:
        files += _write_weights(source, out)
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


def _write_weights(source: ExportedModel, out: Path) -> list[Path]:
    """Write the folded network as a base file, with the configuration that it needs."""
    path, config = out / "model.safetensors", out / "config.toml"
    sha256, flat = save_base(source.network, path, source.notes), source.config.to_flat()
    keys = {key: flat[key] for key in CONFIG_KEYS}
    write_text(config, tomli_w.dumps({**keys, "base-sha256": sha256}))
    return [path, config]


def chosen_formats(names: Sequence[str], *, has_adapter: bool) -> list[str]:
    """Return the formats to write, in the order of ``FORMATS``.

    Raises
    ------
    UserError
        A format is unknown, or it is ``peft`` and there is no adapter.
    """
    for name in names:
        if name not in (*FORMATS, ALL):
            raise UserError(f"--format: found {name!r}, expected one of {', '.join(FORMATS)}, all")
    if "peft" in names and not has_adapter:
        raise UserError("--format peft: found no adapter, expected --adapter or --run")
    return [
        name
        for name in FORMATS
        if name in names or (ALL in names and (name != "peft" or has_adapter))
    ]


def check_new(out: Path) -> None:
    """Refuse a folder that is not empty, as files of two models side by side would mislead.

    Raises
    ------
    UserError
        The folder is not empty, or ``out`` is not a folder.
    """
    try:
        found = next(out.iterdir(), None)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{out}: cannot be read ({error.strerror})") from None
    if found is not None:
        raise UserError(f"{out}: holds {found.name}, expected it new or empty")
