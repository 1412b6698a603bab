"""Writing tensors as safetensors files."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from common.files import replace_file


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Write or replace a safetensors file at once, with ``notes`` as its metadata.

    Safetensors' own ``save_file`` makes files that no other user, such as a container's, may read.
    """
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with replace_file(path) as temporary:
        temporary.write_bytes(_sorted(save(whole, metadata=dict(notes) if notes else None)))


def _sorted(data: bytes) -> bytes:
    """Sort the metadata, which safetensors writes in random order."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + data[end:]
