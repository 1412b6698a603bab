"""Writing files so that they are either whole or not there, and JSON without NaN."""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary file beside ``path`` that replaces it when the block ends without an error.

    A reader never sees half a file, and a writer that is killed leaves the old one.

    Raises
    ------
    UserError
        The file cannot be written: no permission, no space, or a folder in its place.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def keep_private() -> None:
    """Let nobody but this process's user read what it writes from now on, nor what it starts."""
    os.umask(0o077)


def close_to_others(path: Path) -> None:
    """Take a file or folder away from users who are neither its owner nor of its group."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o007 and (path.is_file() or path.is_dir()):
            path.chmod(mode & 0o770)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be closed to others ({error.strerror})") from None


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by ``text`` (UTF-8) at once."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not have (NaN, infinity) by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
