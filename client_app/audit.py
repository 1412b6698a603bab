"""The audit log: a line for every message that comes to a site or is about to leave it."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from flwr.app import ArrayRecord, Message, RecordDict

from client_app.hash_chain import HashChain
from common import records
from common.errors import UserError
from common.flower_private import get_all_nested_objects

IN, OUT, LOG = "in", "out", "log"
"""Directions: to the site, from the site, and of what happened to the log itself."""
PASSED = "passed"


@dataclass(frozen=True)
class RequestId:
    """Which request a message is, or answers."""

    run: int
    server_round: int
    kind: str
    """Flower's message type, such as ``train`` or ``query.describe``."""


def describe(content: RecordDict) -> dict[str, Any]:
    """Return what a message carries, fit for JSON.

    Returns
    -------
    dict
        ``arrays``: name, shape, dtype, bytes and SHA-256 of each tensor; ``metrics``,
        ``config``: names and values; ``payload_bytes``: bytes of the tensors; ``message_bytes``:
        bytes of all objects as Flower sends them; ``sha256``: Flower's hash of the content.
    """
    arrays, payload = [], 0
    for key, record in sorted(content.array_records.items()):
        payload += records.payload_bytes(record)
        arrays += [{"name": f"{key}/{name}", **facts} for name, facts in _arrays(record)]
    objects = get_all_nested_objects(content)
    return {
        "arrays": arrays,
        "metrics": {key: dict(record) for key, record in content.metric_records.items()},
        "config": {key: dict(record) for key, record in content.config_records.items()},
        "payload_bytes": payload,
        "message_bytes": sum(len(item.deflate()) for item in objects.values()),
        "sha256": content.object_id,
    }


def _arrays(record: ArrayRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and facts of every tensor, or of every array where the tensors cannot be read."""
    try:
        for name, tensor in records.record_to_tensors(record).items():
            data = tensor.flatten().view(torch.uint8).numpy().tobytes()
            yield name, _facts(tensor.shape, records.type_name(tensor), data)
    except ValueError:
        for name, array in record.items():
            yield name, _facts(array.shape, array.dtype, array.data)


def _facts(shape: Sequence[int], dtype: str, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    return {"shape": list(shape), "dtype": dtype, "bytes": len(data), "sha256": sha256}


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
        content = (
            {"error": message.error.reason} if message.has_error() else describe(message.content)
        )
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
        if not {"time", "run", "round", "kind", "direction", "verdict"} <= set(entry):
            raise UserError(f"{path}: line {entry['line']} is not an audit line")
        yield entry


def _begin(request: RequestId, direction: str, verdict: str) -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "run": str(request.run),
        "round": request.server_round,
        "kind": request.kind,
        "direction": direction,
        "verdict": verdict,
    }


def _note(sentence: str) -> dict[str, Any]:
    """Return the entry that says what was mended in the log after a crash."""
    return {**_begin(RequestId(0, 0, "mended"), LOG, PASSED), "note": sentence}
