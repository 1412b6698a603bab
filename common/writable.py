"""Checks before long work that a folder, file or log can be written; they leave nothing behind."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from common.errors import UserError

BLOCK = 4096
"""Bytes that are written as a trial: a full disk still has room for an empty file."""


def check_folder(folder: Path) -> None:
    """Raise UserError unless files can be made in a folder, which need not exist yet."""
    _try(folder, folder)


def check_file(path: Path) -> None:
    """Raise UserError unless a file can be made, or replaced as :mod:`common.files` does it."""
    _try(path.parent, path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write")


def check_log(path: Path) -> None:
    """Raise UserError unless a file can be appended to; an existing one is opened, not changed."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except FileNotFoundError:
        _try(path.parent, path)
    except OSError as error:
        raise _refused(path, error) from None


def _try(folder: Path, wanted: Path) -> None:
    """Make a nameless file in the folder, or in its nearest parent that exists."""
    try:
        while not folder.exists():
            folder = folder.parent
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(BLOCK))
            file.flush()
    except OSError as error:
        raise _refused(wanted, error) from None


def _refused(path: Path, error: OSError) -> UserError:
    return UserError(f"{path}: cannot be written ({error.strerror or error})")
