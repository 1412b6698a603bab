"""Writing tensors as safetensors files."""

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
        temporary.write_bytes(save(whole, metadata=dict(notes) if notes else None))
