"""Files of tensors: equal content gives equal bytes, safetensors reads it, and damage is seen."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from common.errors import UserError
from common.tensor_files import SHA256_NOTE, read_tensors, write_tensors

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
        assert file.metadata().keys() == {*NOTES, SHA256_NOTE}
        for name, value in tensors.items():
            assert torch.equal(file.get_tensor(name), value)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    given = {"a": torch.randn(2, 3), "none": torch.ones(0, 2), "n": torch.tensor(3)}
    for notes in (NOTES, {}, None):
        write_tensors(path, given, notes)
        tensors, found = read_tensors(path, "a file", sealed=True)
        assert found == (notes or {})
        assert tensors.keys() == given.keys()
        assert all(torch.equal(tensors[name], value) for name, value in given.items())


def test_no_flipped_bit_is_read_as_if_nothing_were(tmp_path: Path) -> None:
    path, random = tmp_path / "file", np.random.default_rng(0)
    given = {"a": torch.randn(40, 50)}
    write_tensors(path, given, NOTES)
    good = path.read_bytes()
    end = 8 + int.from_bytes(good[:8], "little")
    places = [
        *range(8 * 8),
        *random.integers(64, 8 * end, 400),
        *random.integers(8 * end, 8 * len(good), 400),
    ]
    for place in places:
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        path.write_bytes(bad)
        with suppress(UserError):
            tensors, notes = read_tensors(path, "a file", sealed=True)
            # an escaped letter's other case, say: the same content in other bytes
            assert place < 8 * end
            assert torch.equal(tensors["a"], given["a"])
            assert notes == NOTES


def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"a": torch.ones(9)})
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="file: damaged, its SHA-256 is not the one"):
        read_tensors(path, "a file")


def test_a_file_of_another_program_is_read_where_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    save_file({"a": torch.ones(3)}, path, metadata={"format": "pt"})
    assert read_tensors(path, "a file")[1] == {"format": "pt"}
    with pytest.raises(UserError, match=r"not a checkpoint \(found no 'sha256'"):
        read_tensors(path, "a checkpoint", sealed=True)
