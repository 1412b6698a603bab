"""Files are written whole or not at all."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from common.errors import UserError
from common.files import parse_json, replace_file, write_text
from common.tensor_files import write_tensors


def fail_half_way(path: Path) -> None:
    with replace_file(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("disk on fire")


def test_the_new_content_takes_the_place_of_the_old_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replace_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="disk on fire"):
        fail_half_way(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_raises_makes_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="disk on fire"):
        fail_half_way(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_block_that_writes_nothing_is_an_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UserError, match=str(path)), replace_file(path):
        pass
    assert path.read_text() == "old"


def test_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file", "λ = 0.2")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == "λ = 0.2".encode()


def test_tensors_are_whole_with_their_notes_and_for_whoever_may_read_the_folder(
    tmp_path: Path,
) -> None:
    path, plain = tmp_path / "tensors", tmp_path / "plain"
    plain.touch()
    value = torch.arange(6.0).view(2, 3).T  # not contiguous
    write_tensors(path, {"x": value}, {"site": "GE"})
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("x"), value)
        assert file.metadata()["site"] == "GE"
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "scores.json", tmp_path):
        with pytest.raises(UserError, match=f"{path}: cannot be written"):
            write_text(path, "text")


@pytest.mark.parametrize(
    "text", ["[" * 100_000, b"{" * 100_000, '{"a": ' * 50_000, "", b"\xff", "{]"]
)
def test_whatever_is_wrong_with_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)
