"""Files of tensors: equal content gives equal bytes, and safetensors reads it back."""

from pathlib import Path

import torch
from safetensors import safe_open

from common.tensor_files import write_tensors

NOTES = {f"note-{number}": f"μ {number}\n" for number in range(6)}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.ones(1)}
    written = set()
    for number in range(8):
        path = tmp_path / f"{number}.safetensors"
        write_tensors(path, tensors, dict(sorted(NOTES.items(), reverse=number % 2 == 1)))
        written.add(path.read_bytes())
    assert len(written) == 1
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == NOTES
        for name, value in tensors.items():
            assert torch.equal(file.get_tensor(name), value)


def test_a_file_without_notes_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "plain.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() is None
        assert torch.equal(file.get_tensor("a"), torch.ones(3))
