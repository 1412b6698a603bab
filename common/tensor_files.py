"""Tensors as safetensors files."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from common.files import replace_file


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Replace a safetensors file at once, with ``notes`` as its metadata.

    Safetensors itself would write a file that no other user may read, such as a container's.
    """
    whole = {name: value.contiguous() for name, value in tensors.items()}
    with replace_file(path) as temporary:
        temporary.write_bytes(save(whole, metadata=dict(notes) if notes else None))
