"""The checks leave nothing behind, and name a place that cannot be written."""

from pathlib import Path

import pytest

from common.errors import UserError
from common.writable import check_file, check_folder, check_log

CHECKS = (check_folder, check_file, check_log)


@pytest.mark.parametrize("check", CHECKS)
def test_what_is_not_there_yet_is_not_made(tmp_path: Path, check: object) -> None:
    assert callable(check)
    check(tmp_path / "new" / "deep" / "name")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("check", CHECKS)
def test_nothing_is_written_below_a_file(tmp_path: Path, check: object) -> None:
    assert callable(check)
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "name", tmp_path / "file" / "deep" / "name"):
        with pytest.raises(UserError) as error:
            check(path)
        assert str(error.value) == f"{path}: cannot be written (Not a directory)"


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: cannot be written"):
        check_folder(tmp_path / "file")
    for check in (check_file, check_log):
        with pytest.raises(UserError, match=str(tmp_path)):
            check(tmp_path)
        check(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_disk_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(dir: Path) -> object:  # noqa: A002
        return Path("/dev/full").open("wb")

    monkeypatch.setattr("common.writable.TemporaryFile", full)
    with pytest.raises(UserError, match="No space left on device"):
        check_folder(tmp_path)
