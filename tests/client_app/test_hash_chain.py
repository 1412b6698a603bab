"""A log in which nothing can be removed, changed or reordered unseen, whatever a crash cuts."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client_app.hash_chain import HashChain, Head
from common.errors import UserError


def chain(folder: Path, file_bytes: int = 10**6) -> HashChain:
    return HashChain(folder / "audit.jsonl", lambda note: {"note": note}, file_bytes)


def log_of(folder: Path, count: int = 6, file_bytes: int = 10**6) -> HashChain:
    """Return a log of so many lines."""
    log = chain(folder, file_bytes)
    for number in range(count):
        log.append({"message": f"{number} é", "value": float("nan")})
    return log


def entries(log: HashChain) -> list[dict[str, Any]]:
    return [dict(entry) for entry in log.read()]


def said(log: HashChain) -> list[Any]:
    """Return the messages of a log, and its notes."""
    return [entry.get("message", entry.get("note")) for entry in log.read()]


def whole(log: HashChain) -> list[str]:
    return log.path.read_text().splitlines(keepends=True)


def test_each_line_has_the_hash_of_the_one_before(tmp_path: Path) -> None:
    log = chain(tmp_path)
    hashes = [log.append({"message": text}) for text in "abc"]
    found = entries(log)
    assert [entry["line"] for entry in found] == [1, 2, 3]
    assert [entry["previous"] for entry in found] == ["0" * 64, *hashes[:2]]
    assert said(log) == ["a", "b", "c"]


Change = Callable[[list[str]], list[str]]
TAMPERED: dict[str, tuple[Change, str]] = {
    "the first line removed": (lambda x: x[1:], "line 1 is number 2, expected 1"),
    "a line removed": (lambda x: x[:2] + x[3:], "line 3 is number 4, expected 3"),
    "the last line removed": (lambda x: x[:-1], "ends with line 5, expected line 6"),
    "the last lines removed": (lambda x: x[:2], "ends with line 2, expected line 6"),
    "all removed": (lambda _: [], "ends with line 0, expected line 6"),
    "a line changed": (lambda x: [x[0].replace("0 ", "1 "), *x[1:]], "does not follow"),
    "the last line changed": (lambda x: [*x[:-1], x[-1].replace("5 ", "6 ")], "6 was changed"),
    "a hash changed": (lambda x: [x[0], x[1].replace('s": "', 's": "f', 1), *x[2:]], "not follow"),
    "two lines exchanged": (lambda x: [x[1], x[0], *x[2:]], "line 1 is number 2"),
    "reordered": (lambda x: x[::-1], "line 1 is number 6"),
    "a line twice": (lambda x: [*x, x[-1]], "line 7 is number 6"),
    "a line added": (lambda x: [*x, '{"line": 7, "previous": "0"}\n'], "line 7 does not follow"),
    "rubbish added": (lambda x: [*x, "rubbish\n"], "line 7 is not an audit line"),
    "an empty line added": (lambda x: [*x, "\n"], "line 7 is not an audit line"),
    "an early line cut": (lambda x: [x[0][:20], *x[1:]], "line 1 is not an audit line"),
    "two lines removed and the next cut": (lambda x: [*x[:3], x[3][:9]], "line 4 is cut"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAMPERED)
def test_what_is_removed_changed_or_reordered_is_seen_for_ever(tmp_path: Path, case: str) -> None:
    change, message = TAMPERED[case]
    log = log_of(tmp_path)
    log.path.write_text("".join(change(whole(log))))
    with pytest.raises(UserError, match=re.escape(message)):
        entries(log)
    for _ in range(3):  # the site goes on, and is started again
        chain(tmp_path).append({"message": "on"})
        with pytest.raises(UserError, match="audit"):
            entries(log)


@pytest.mark.parametrize("damage", [None, "", "{", "[]", '{"line": 1}', "other text"])
def test_without_its_head_a_log_is_not_taken_for_whole(tmp_path: Path, damage: str | None) -> None:
    log = log_of(tmp_path)
    if damage is None:
        log.head_path.unlink()
    else:
        text = log.head_path.read_text().replace("5 ", "7 ") if damage == "other text" else damage
        log.head_path.write_text(text)
    with pytest.raises(UserError, match=r"head: missing, damaged or older than the log"):
        entries(log)
    log.append({"message": "on"})
    with pytest.raises(UserError, match=r"audit\.jsonl: line 2 was changed"):
        entries(log)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_a_last_line_that_was_cut_is_restored_and_the_log_says_so(
    tmp_path: Path, share: float
) -> None:
    log = log_of(tmp_path)
    before, last = log.path.read_bytes(), len(whole(log)[-1].encode())
    cut = max(1, int(share * last))
    log.path.write_bytes(before[:-cut])
    with pytest.raises(UserError, match="line 6 is cut"):
        entries(log)
    chain(tmp_path).append({"message": "on"})
    assert log.path.read_bytes().startswith(before)
    note = f"line 6 was cut; its last {cut} bytes were restored"
    assert said(log)[6:] == [note, "on"]


def test_half_a_line_of_a_message_that_did_not_go_on_is_removed(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    with log.path.open("ab") as file:
        file.write(b'{"line": 7, "prev')
    with pytest.raises(UserError, match="line 7 is cut"):
        entries(log)
    log.append({"message": "on"})
    assert said(log)[6:] == ["17 bytes of half a line removed", "on"]


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("half", [b"", b'{"line'])
def test_a_crash_between_line_and_head_loses_nothing(
    tmp_path: Path, before: int, half: bytes
) -> None:
    log = log_of(tmp_path, before)
    head = log.head_path.read_bytes() if before else None
    log.append({"message": "last"})
    if head is None:
        log.head_path.unlink()
    else:
        log.head_path.write_bytes(head)
    if not half:
        assert said(log)[-1] == "last"
    with log.path.open("ab") as file:
        file.write(half)
    log.append({"message": "on"})
    notes = ["6 bytes of half a line removed"] if half else []
    assert said(log)[before:] == ["last", *notes, "on"]


def test_a_full_disk_leaves_a_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = log_of(tmp_path, 2)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", full)
        with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
            log.append({"message": "not on the disk"})
    log.append({"message": "on"})
    assert said(log)[-1] == "on"


def test_a_large_file_is_closed_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = log_of(tmp_path, 12, file_bytes=500)
    files = sorted(path.name for path in tmp_path.glob("*.jsonl"))
    assert len(files) == 3
    assert files[-1] == "audit.jsonl"
    assert re.fullmatch(r"audit\.\d{9}\.jsonl", files[0])
    assert [entry["line"] for entry in log.read()] == [*range(1, 13)]
    assert all((tmp_path / name).stat().st_size < 1000 for name in files)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_closed_file_that_is_gone_is_missed(tmp_path: Path, which: int) -> None:
    log = log_of(tmp_path, 12, file_bytes=500)
    closed = sorted(tmp_path.glob("audit.0*.jsonl"))
    closed[which].unlink()
    for _ in range(2):
        with pytest.raises(UserError, match="lines were removed"):
            entries(log)
        log.append({"message": "on"})


@pytest.mark.parametrize("written", [0, 1])
def test_a_crash_while_a_file_is_closed_loses_nothing(tmp_path: Path, written: int) -> None:
    log = log_of(tmp_path, 4)
    head = log.head_path.read_bytes()
    log.path.rename(tmp_path / "audit.000000004.jsonl")
    if written:
        log.append({"message": "fifth"})
        log.head_path.write_bytes(head)
    log.append({"message": "on"})
    assert said(log)[4:] == ["fifth"] * written + ["on"]


def test_adding_a_line_reads_nothing_of_the_log(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    text = whole(log)
    log.path.write_text("x" * (len("".join(text).encode()) - 1) + "\n")
    log.append({"message": "on"})  # the same size, so nothing seems amiss
    added = json.loads(whole(log)[-1])
    assert (added["line"], added["message"]) == (7, "on")
    with pytest.raises(UserError, match="line 1 is not an audit line"):
        entries(log)


def test_a_log_without_hashes_is_named_at_the_start(tmp_path: Path) -> None:
    log = chain(tmp_path)
    log.check_begun()
    log.path.write_text('{"direction": "in"}\n')
    with pytest.raises(UserError, match="without hashes; move it elsewhere"):
        log.check_begun()
    log.path.write_text('{"half a first li')
    log.check_begun()
    log.append({"message": "on"})
    log.check_begun()
    assert said(log) == ["17 bytes of half a line removed", "on"]


def test_the_first_line_has_a_hash_of_nothing() -> None:
    assert Head().sha256 == "0" * 64
