"""A log of JSON lines, each of which has the hash of the line before it.

Whoever removes, changes or reorders lines breaks the chain, and no line that is added later mends
it. A head file beside the log holds the last line, so that lines removed at the end are missed, and
so that adding a line reads nothing of the log. A line that a crash has cut in half is restored, or
removed where it was not finished, and a new line says so. A file that has become large is closed
under the number of its last line, such as ``audit.000001234.jsonl``, and the chain goes on in a new
one.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from common.errors import UserError
from common.files import finite, parse_json, write_text

START = "0" * 64
"""What the first line has in place of the hash of the line before."""
FILE_BYTES = 64 * 2**20
"""Size at which a file of the log is closed."""

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Head:
    """The last line of a log."""

    number: int = 0
    """1 for the first line, 0 where there is none."""
    end: int = 0
    """Size of the file that the line is in, up to its end."""
    line: str = ""

    @property
    def sha256(self) -> str:
        """The hash that the next line must have."""
        return hashlib.sha256(self.line.encode()).hexdigest() if self.number else START

    def followed_by(self, raw: bytes) -> tuple["Head", Entry]:
        """Return the head with one more line, and the line's entry.

        Raises
        ------
        ValueError
            The line does not follow from this one.
        """
        if not raw.endswith(b"\n"):
            raise ValueError("is cut; when the site goes on it mends what a crash has cut")
        try:
            line = raw[:-1].decode()
            entry = parse_json(line)
            number, previous = entry["line"], entry["previous"]
        except (ValueError, KeyError, TypeError):
            raise ValueError("is not an audit line") from None
        if number != self.number + 1:
            raise ValueError(
                f"is number {number!r:.20}, expected {self.number + 1}: lines were removed, added "
                "or reordered"
            )
        if previous != self.sha256:
            raise ValueError("does not follow from the line before: one of them was changed")
        return Head(self.number + 1, self.end + len(raw), line), entry


class HashChain:
    """A log at ``path``.

    Parameters
    ----------
    note
        Makes the entry that says what was mended, from a sentence.
    file_bytes
        Size at which a file of the log is closed.
    """

    def __init__(
        self, path: Path, note: Callable[[str], Entry], file_bytes: int = FILE_BYTES
    ) -> None:
        self.path = path.resolve()
        self.head_path = self.path.with_name(self.path.name + ".head")
        self.note = note
        self.file_bytes = file_bytes

    def append(self, entry: Entry) -> str:
        """Add a line; return its hash when line and head are on the disk.

        Raises
        ------
        UserError
            The log or its head cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked("a+b", fcntl.LOCK_EX) as file:
                head = self._mended(file)
                if head.end < self.file_bytes:
                    return self._add(file, head, entry).sha256
                self.path.rename(self._closed(head.number))
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from None
        return self.append(entry)

    def read(self) -> Iterator[Entry]:
        """Yield the entries of all lines, each when it is known to follow from those before it.

        Raises
        ------
        UserError
            A file cannot be read, or a line was removed, changed, added, reordered or cut.
        """
        last = Head()
        try:
            with self._locked("rb", fcntl.LOCK_SH):
                head = self._head()
                for path in (*self._older(), self.path):
                    with path.open("rb") as file:
                        for count, raw in enumerate(file, start=1):
                            try:
                                last, entry = last.followed_by(raw)
                            except ValueError as error:
                                raise UserError(f"{path}: line {count} {error}") from None
                            if last.number == head.number and last.line != head.line:
                                raise UserError(f"{path}: line {count} was changed")
                            yield entry
        except OSError as error:
            raise UserError(f"{self.path}: cannot read the file ({error.strerror})") from None
        if last.number < head.number:
            raise UserError(
                f"{self.path}: ends with line {last.number}, expected line {head.number}: lines "
                "were removed at its end"
            )
        if last.number > head.number + 1:  # by one where a crash came between line and head
            raise UserError(f"{self.head_path}: missing, damaged or older than the log")

    def check_begun(self) -> None:
        """Raise UserError where there is a log whose first line is of no chain."""
        try:
            if self.path.is_file() and not self.head_path.exists() and not self._older():
                with self.path.open("rb") as file:
                    raw = file.readline()
                if raw.endswith(b"\n"):
                    Head().followed_by(raw)
        except OSError as error:
            raise UserError(f"{self.path}: cannot read the file ({error.strerror})") from None
        except ValueError:
            raise UserError(
                f"{self.path}: the log is of a version without hashes; move it elsewhere"
            ) from None

    @contextmanager
    def _locked(self, mode: str, operation: int) -> Iterator[IO[bytes]]:
        """Yield the log's file, locked."""
        while True:
            with self.path.open(mode) as file:
                fcntl.flock(file, operation)
                # Another process may have closed the file while this one waited for the lock.
                if os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    yield file
                    return

    def _head(self) -> Head:
        """Return what the head file holds; an empty head where it is missing or damaged."""
        try:
            found = parse_json(self.head_path.read_text("utf-8"))
            head = Head(int(found["line"]), int(found["end"]), str(found["text"]))
            sha256 = found["sha256"]
        except (FileNotFoundError, ValueError, KeyError, TypeError, OverflowError):
            return Head()
        if head.sha256 != sha256:
            return Head()
        return replace(head, end=0) if self._closed(head.number).is_file() else head

    def _mended(self, file: IO[bytes]) -> Head:
        """Return the head, of which the file ends with the line, after mending what a crash did.

        Lines that are missing or not of this log are left as they are. The next line follows from
        the head all the same, so that everybody who reads the log finds the break.
        """
        head = self._head()
        size = file.seek(0, os.SEEK_END)
        raw = head.line.encode() + b"\n"
        start = head.end - len(raw)
        if head.number and start < size < head.end:
            file.seek(start)
            if raw.startswith(file.read()):
                _write(file, raw[size - start :])
                text = f"line {head.number} was cut; its last {head.end - size} bytes were restored"
                return self._add(file, head, self.note(text))
        elif size > head.end:
            file.seek(head.end)
            found = file.readline()
            with suppress(ValueError):
                head, _ = head.followed_by(found)  # the crash came between line and head
                self._save(head)
                found = file.readline()
            if found and not found.endswith(b"\n"):  # of a message that did not go on
                file.truncate(head.end)
                return self._add(
                    file, head, self.note(f"{len(found)} bytes of half a line removed")
                )
        file.seek(max(0, size - 1))
        if file.read(1) not in (b"", b"\n"):
            _write(file, b"\n")
        return replace(head, end=file.seek(0, os.SEEK_END))

    def _add(self, file: IO[bytes], head: Head, entry: Entry) -> Head:
        numbered = {"line": head.number + 1, "previous": head.sha256, **entry}
        line = json.dumps(finite(numbered), default=repr)
        raw = line.encode() + b"\n"
        _write(file, raw)
        head = Head(head.number + 1, head.end + len(raw), line)
        self._save(head)
        return head

    def _save(self, head: Head) -> None:
        found = {"line": head.number, "end": head.end, "sha256": head.sha256, "text": head.line}
        write_text(self.head_path, json.dumps(found) + "\n")
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else the head may be lines behind after a loss of power
        finally:
            os.close(folder)

    def _closed(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.stem}.{number:09d}{self.path.suffix}")

    def _older(self) -> list[Path]:
        """Return the closed files, the oldest first."""
        name = re.compile(re.escape(self.path.stem) + r"\.(\d{9,})" + re.escape(self.path.suffix))
        names = (name.fullmatch(path.name) for path in self.path.parent.iterdir())
        return [self._closed(n) for n in sorted(int(found[1]) for found in names if found)]


def _write(file: IO[bytes], raw: bytes) -> None:
    file.write(raw)
    file.flush()
    os.fsync(file.fileno())
