"""Attacks on what a site keeps: its audit log, its prepared volumes, and who may read them."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from client_app.audit import read_audit
from client_app.audit_summary import summarise
from client_app.site import open_site
from common import messages
from common.errors import UserError
from tests.attacks.kit import Hospital, refusal, start


def verdict(hospital: Hospital) -> str:
    """Return why the audit log is not taken for whole; empty where it is."""
    try:
        assert not summarise(read_audit(hospital.audit)).refusals
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("case", ["a refusal", "the first half", "a change", "the order"])
def test_the_log_is_rewritten(hospital: Hospital, case: str) -> None:
    """Lines of the audit log are removed, changed or reordered, and the site goes on."""
    for _ in range(3):
        hospital.ask(messages.DESCRIBE)
    assert verdict(hospital) == ""
    lines = hospital.audit.read_text().splitlines(keepends=True)
    changed = {
        "a refusal": lines[:-1],
        "the first half": lines[3:],
        "a change": [lines[0].replace('"run": "1"', '"run": "9"'), *lines[1:]],
        "the order": lines[::-1],
    }[case]
    assert changed != lines
    hospital.audit.write_text("".join(changed))
    assert verdict(hospital) != ""
    for _ in range(2):
        hospital.ask(messages.DESCRIBE)
        assert verdict(hospital) != ""


def test_the_last_line_is_cut(hospital: Hospital) -> None:
    """A crash cuts the audit log's last line in half; the log goes on, whole, and says so."""
    hospital.ask(messages.DESCRIBE)
    before = hospital.audit.read_bytes()
    hospital.audit.write_bytes(before[:-300])
    assert "is cut" in verdict(hospital)
    assert refusal(hospital.ask(messages.DESCRIBE)) == ""
    assert verdict(hospital) == ""
    assert hospital.audit.read_bytes().startswith(before)
    (mended,) = summarise(read_audit(hospital.audit)).mended
    assert "its last 300 bytes were restored" in mended["note"]
    assert len([json.loads(line) for line in hospital.audit.read_text().splitlines()]) == 5


@contextmanager
def umask(value: int) -> Iterator[None]:
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def test_another_user_reads_what_the_site_keeps(hospital: Hospital) -> None:
    """Another user of the machine looks for volumes, adapters and the log that he may read."""
    with umask(0o022):
        hospital.ask(messages.DESCRIBE)
        hospital.ask(messages.TRAIN, start(), sends="A", merge="pad", rating="none")
    files = [path for path in hospital.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"audit.jsonl", "audit.jsonl.head"}
    assert any("volumes" in path.parts for path in files)
    assert [str(path) for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077] == []


@pytest.mark.parametrize("case", ["empty", "half", "zeros", "other tensors", "a bit"])
def test_a_prepared_volume_is_damaged(hospital: Hospital, case: str) -> None:
    """A prepared volume is damaged or exchanged; the site makes it anew and answers as before."""
    before = hospital.ask(messages.DESCRIBE).content.metric_records
    assert before
    volume = sorted(hospital.cache.rglob("*.pt"))[0]
    good = volume.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    torch.save({"image": torch.zeros(1)}, volume)
    other = volume.read_bytes()
    volume.write_bytes(
        {
            "empty": b"",
            "half": good[: len(good) // 2],
            "zeros": bytes(len(good)),
            "other tensors": other,
            "a bit": bytes(flipped),
        }[case]
    )
    open_site.cache_clear()
    hospital.new_run()  # in the same run the site repeats what it said
    reply = hospital.ask(messages.DESCRIBE)
    assert refusal(reply) == ""
    assert reply.content.metric_records == before
    assert torch.load(volume).keys() == torch.load(sorted(hospital.cache.rglob("*.pt"))[1]).keys()
