"""Writes files whole or not at all; parses JSON and keeps NaN out of it."""

import hashlib
import json
import math
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from common.errors import UserError

PART = re.compile(r"\..+\.\d+\.part")
"""Names of temporary files."""
LONGEST_NAME = 150
"""Most bytes of another machine's name in the name of a file."""


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


def remove_parts(folder: Path, older_than_s: float = 0.0) -> None:
    """Remove the temporary files that :func:`replace_file` left in a folder when it was killed.

    ``older_than_s`` is the least age (s), for a folder that other processes may write to now.
    """
    for path in folder.glob(".*.part"):
        with suppress(OSError):  # another process may have removed it
            if PART.fullmatch(path.name) and path.stat().st_mtime <= time.time() - older_than_s:
                path.unlink()


def cut_name(name: str) -> str:
    """Return a name that fits into a file's, which may have 255 bytes.

    A longer one is cut and ends with ``+`` and a hash.
    """
    data = name.encode(errors="backslashreplace")
    if len(data) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[:LONGEST_NAME].decode(errors='ignore')}+{digest}"


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by ``text`` (UTF-8) at once."""
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes, **how: Any) -> Any:
    """Parse JSON that may come from elsewhere; ``how`` is passed on to ``json.loads``.

    Raises ValueError whatever is wrong with the text, also where it is nested too deeply.
    """
    try:
        return json.loads(text, **how)  # noqa: TID251
    except RecursionError:
        raise ValueError("nested too deeply") from None


def finite(value: Any) -> Any:
    """Replace numbers that JSON does not have (NaN, infinity) by null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
