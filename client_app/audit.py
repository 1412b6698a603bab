"""The audit log: a line for every message that comes to a site or is about to leave it."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, RecordDict

from client_app.hash_chain import HashChain
from common import records
from common.errors import UserError
from common.flower_private import get_all_nested_objects
from common.text import clean

IN, OUT, LOG = "in", "out", "log"
"""Directions: to the site, from the site, and of what happened to the log itself."""
PASSED = "passed"
MOST = 1000
"""Most arrays of a message that its line names; likewise most metrics, and most other values."""
MOST_ITEMS = 20
"""Most items of a list."""
LONGEST = 200
"""Most characters of a text."""


@dataclass(frozen=True)
class RequestId:
    """Which request a message is, or answers."""

    run: int
    server_round: int
    kind: str
    """Flower's message type, such as ``train`` or ``query.describe``."""


def describe(content: RecordDict, *, parse: bool = True) -> dict[str, Any]:
    """Return what a message carries, fit for JSON and a few MiB at most, whatever it carries.

    Without ``parse`` the arrays are listed as they came, and not the tensors in them.

    Returns
    -------
    dict
        ``arrays``: name, shape, dtype, bytes and SHA-256 of each tensor; ``metrics``,
        ``config``: names and values, of which long ones are cut; ``payload_bytes``: bytes of the
        tensors; ``message_bytes``: bytes of all objects as Flower sends them; ``sha256``: Flower's
        hash of the content; ``more``: what there is more than ``MOST`` of, where there is.
    """
    arrays = (
        {"name": _short(f"{key}/{name}"), **facts}
        for key, record in sorted(content.array_records.items())
        for name, facts in _arrays(record, parse=parse)
    )
    numbers, texts = _values(content.metric_records), _values(content.config_records)
    objects = get_all_nested_objects(content)
    found = {
        "arrays": list(islice(arrays, MOST)),
        "metrics": _by_record(islice(numbers, MOST)),
        "config": _by_record(islice(texts, MOST)),
        "payload_bytes": sum(map(records.payload_bytes, content.array_records.values())),
        "message_bytes": sum(len(item.deflate()) for item in objects.values()),
        "sha256": content.object_id,
    }
    left = {"arrays": arrays, "metrics": numbers, "config": texts}
    more = [key for key, rest in left.items() if next(rest, None) is not None]
    return {**found, "more": more} if more else found


def _values(found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Yield record, name and value of every metric, or of every other value."""
    for key, record in found.items():
        for name, value in record.items():
            yield key, name, value


def _by_record(values: Iterable[tuple[str, str, Any]]) -> dict[str, dict[str, Any]]:
    named: dict[str, dict[str, Any]] = {}
    for key, name, value in values:
        named.setdefault(_short(key), {})[_short(name)] = _short(value)
    return named


def _short(value: Any) -> Any:
    """Return a value of a message with long texts, lists and integers cut."""
    if isinstance(value, list):
        more = [f"… {len(value)} items"] if len(value) > MOST_ITEMS else []
        return [*map(_short, value[:MOST_ITEMS]), *more]
    if isinstance(value, bytes) or (isinstance(value, int) and value.bit_length() > 64):
        return f"{type(value).__name__} of {value.__sizeof__()} bytes"
    return clean(value, LONGEST) if isinstance(value, str) else value


def _arrays(record: ArrayRecord, *, parse: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and facts of every tensor, or of every array where the tensors are not read."""
    tensors: Mapping[str, torch.Tensor] | None = None
    if parse:
        with suppress(ValueError):
            tensors = records.record_to_tensors(record)
    if tensors is None:
        for name, array in record.items():
            yield name, _facts(array.shape, array.dtype, array.data)
        return
    for name, tensor in tensors.items():
        data = tensor.flatten().view(torch.uint8).numpy().tobytes()
        yield name, _facts(tensor.shape, records.type_name(tensor), data)


def _facts(shape: Sequence[int], dtype: str, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {
        "shape": _short(list(shape)),
        "dtype": _short(dtype),
        "bytes": len(data),
        "sha256": sha256,
    }


class AuditLog:
    """Appends a line to the log at ``path`` for every message, before the message goes on."""

    def __init__(self, path: Path) -> None:
        self.chain = HashChain(path, _note)

    def write(self, request: RequestId, direction: str, verdict: str, message: Message) -> str:
        """Add a message that came in or is about to leave; return the line's SHA-256.

        When this returns, the line is on the disk.

        Parameters
        ----------
        direction
            ``in`` or ``out``.
        verdict
            ``passed``, or why the message was refused.

        Raises
        ------
        UserError
            The log cannot be written; then nothing may leave.
        """
        if message.has_error():
            content: dict[str, Any] = {"error": _short(message.error.reason)}
        else:  # a request that was refused for its size is not parsed
            content = describe(message.content, parse=direction == OUT or verdict == PASSED)
        return self.chain.append({**_begin(request, direction, verdict), **content})


def read_audit(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a log, each once its hash is verified.

    Raises
    ------
    UserError
        The file cannot be read, a line is not one that :class:`AuditLog` writes, or lines were
        removed, changed or reordered.
    """
    for entry in HashChain(path, _note).read():
        if not _is_line(entry):
            raise UserError(f"{path}: line {entry['line']} is not an audit line")
        yield entry


def _is_line(entry: Mapping[str, Any]) -> bool:
    """Return whether an entry has what every line has, and counts and records that are such."""
    counts = [entry.get(key, 0) for key in ("payload_bytes", "message_bytes")]
    named = [entry.get(key, {}) for key in ("metrics", "config")]
    return (
        {"time", "run", "round", "kind", "direction", "verdict"} <= set(entry)
        and all(isinstance(count, int) for count in counts)
        and isinstance(entry.get("arrays", []), list)
        and all(isinstance(records, dict) for records in named)
        and all(isinstance(record, dict) for records in named for record in records.values())
    )


def _begin(request: RequestId, direction: str, verdict: str) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run": str(request.run),
        "round": request.server_round,
        "kind": _short(request.kind),
        "direction": direction,
        "verdict": clean(verdict, 5 * LONGEST),
    }


def _note(sentence: str) -> dict[str, Any]:
    """Return the entry that says what was mended in the log after a crash."""
    return {**_begin(RequestId(0, 0, "mended"), LOG, PASSED), "note": sentence}
