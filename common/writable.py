"""Whether a place can be written: tried before long work, and without leaving anything there."""

import os
from pathlib import Path
from tempfile import TemporaryFile

from common.errors import UserError

BLOCK = 4096
"""Bytes that are tried: on a full disk an empty file can still be made."""


def check_folder(folder: Path) -> None:
    """Check that files can be made in a folder, which need not be there yet.

    Raises
    ------
    UserError
        No such right, no space, or a file in its place.
    """
    _try(folder, folder)


def check_file(path: Path) -> None:
    """Check that a file can be made, or replaced as ``common.files`` does it.

    Raises
    ------
    UserError
        No such right or no space in its folder, or a folder in its place.
    """
    _try(path.parent, path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write")


def check_log(path: Path) -> None:
    """Check that a file can be appended to; one that is there is opened, and not touched.

    Raises
    ------
    UserError
        No such right or no space, or a folder in its place.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_APPEND))
    except FileNotFoundError:
        _try(path.parent, path)
    except OSError as error:
        raise _refused(path, error) from None


def _try(folder: Path, wanted: Path) -> None:
    """Make a file without a name in the folder, or in the nearest above it that is there."""
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
