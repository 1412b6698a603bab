"""Safetensors files with a SHA-256 of what they hold, which is checked when they are read."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from common.errors import UserError
from common.files import parse_json, replace_file

SHA256_NOTE = "sha256"
"""Key in the metadata: the SHA-256 of all else in the file."""
METADATA = "__metadata__"


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Write or replace a safetensors file at once, with ``notes`` as its metadata.

    Safetensors' own ``save_file`` makes files that no other user, such as a container's, may read.
    """
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with replace_file(path) as temporary:
        temporary.write_bytes(_sealed(save(whole, metadata=dict(notes or {}))))


def read_tensors(
    path: Path, what: str, *, sealed: bool = False
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and notes of a safetensors file.

    Parameters
    ----------
    path
        The file.
    what
        What it should be, such as "an adapter file", for the error's text.
    sealed
        Whether a file without a SHA-256 is refused; other programs and older versions write none.

    Raises
    ------
    UserError
        The file cannot be read, is of another kind, or was damaged after it was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror or error})") from None
    try:
        tensors = load(data)
        header, values = _split(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise UserError(f"{path}: not {what} ({error})") from None
    notes: dict[str, str] = header.pop(METADATA, None) or {}
    expected = notes.pop(SHA256_NOTE, None)
    if expected is None and sealed:
        raise UserError(f"{path}: not {what} (found no {SHA256_NOTE!r} in its metadata)")
    if expected is not None and expected != _sha256(header, notes, values):
        raise UserError(f"{path}: damaged, its SHA-256 is not the one that it was written with")
    return tensors, notes


def _sealed(data: bytes) -> bytes:
    """Add the SHA-256, and sort the metadata, which safetensors writes in random order."""
    header, values = _split(data)
    notes = header.pop(METADATA, {})
    notes[SHA256_NOTE] = _sha256(header, notes, values)
    header = {METADATA: dict(sorted(notes.items())), **header}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + values


def _split(data: bytes) -> tuple[dict[str, Any], memoryview]:
    end = 8 + int.from_bytes(data[:8], "little")
    return parse_json(data[8:end]), memoryview(data)[end:]


def _sha256(header: Mapping[str, Any], notes: Mapping[str, str], values: memoryview) -> str:
    """Return the SHA-256 of names, types, places and notes, then of the values."""
    text = json.dumps([header, notes], sort_keys=True)
    found = hashlib.sha256(text.encode())
    found.update(values)
    return found.hexdigest()
