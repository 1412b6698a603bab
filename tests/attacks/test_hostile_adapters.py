"""Hostile bytes and values where an adapter belongs, from a coordinator."""

import io
import pickle
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.common import Array
from safetensors.torch import save

from benchmarks.shared import peak, reset_peak
from common import messages, records
from tests.attacks.kit import Hospital, refusal, start

MIB = 2**20


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("code-was-run"),))


def safetensors(header: object, body: bytes = b"", size: int | None = None) -> bytes:
    """Return a safetensors file with this header."""
    text = header if isinstance(header, bytes) else repr(header).replace("'", '"').encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def numpy_file(descr: str, shape: str) -> bytes:
    """Return the header of a numpy file."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (63 - (len(text) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped() -> bytes:
    """Return a numpy archive with a pickle in it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("a.npy", pickle.dumps(Code()))
    return packed.getvalue()


def tensor(dtype: str = "F32", shape: list[int] | None = None, end: int = 4) -> dict[str, object]:
    """Return a tensor's entry in a safetensors header."""
    return {"dtype": dtype, "shape": [1] if shape is None else shape, "data_offsets": [0, end]}


PACKED: dict[str, bytes] = {
    "header beyond the file": safetensors({}, size=2**62),
    "deep nesting": safetensors(b'{"a":' * 100_000 + b"}" * 100_000),
    "overlapping": safetensors({"a": tensor(), "b": tensor()}, bytes(4)),
    "huge shape": safetensors({"a": tensor(shape=[2**40, 2**40])}, bytes(4)),
    "zero by 2^62": safetensors({"a.lora_A": tensor(shape=[0, 2**62], end=0)}),
    "float8": safetensors({"a": tensor("F8_E4M3", [4])}, bytes(4)),
    "empty": b"",
    "pickle": pickle.dumps(Code()),
}
RAW: dict[str, bytes] = {
    "pickle as an array": pickle.dumps(Code()),
    "objects": numpy_file("|O", "(1,)") + pickle.dumps(Code()),
    "archive": zipped(),
    "2^40 bytes": numpy_file("|u1", "(1099511627776,)"),
    "negative shape": numpy_file("|u1", "(-1,)"),
    "deep header": numpy_file("|u1", "(" * 5000 + ")" * 5000),
}


def hostile_arrays() -> Iterator[Any]:
    """Yield what comes in an adapter's place."""
    for name, data in PACKED.items():
        array = Array(np.frombuffer(data, np.uint8))
        yield pytest.param(ArrayRecord({records.PACKED: array}), id=name)
    for name, data in RAW.items():
        array = Array("uint8", (1,), "numpy.ndarray", data)
        yield pytest.param(ArrayRecord({records.PACKED: array}), id=name)
    yield pytest.param(ArrayRecord({}), id="nothing")
    one = Array(np.zeros(1, np.uint8))
    yield pytest.param(ArrayRecord({records.PACKED: one, "b": one}), id="two arrays")
    yield pytest.param(ArrayRecord({"other": one}), id="other name")


@pytest.mark.parametrize("arrays", [*hostile_arrays()])
def test_hostile_bytes_are_no_adapter(
    hospital: Hospital, arrays: ArrayRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Send pickles, bombs and nonsense in an adapter's place: refused, no code is run."""
    monkeypatch.chdir(tmp_path)
    before = reset_peak()
    asked = {"site-rank": 4, "run-rank": 4}
    assert refusal(hospital.ask(messages.VALIDATE, arrays={messages.ADAPTER: arrays}, **asked))
    assert peak() - before < 300 * MIB
    assert not list(tmp_path.rglob("code-was-run"))
    assert hospital.logged(messages.VALIDATE) == 1


def test_a_hundred_thousand_tensors_are_cheap(hospital: Hospital) -> None:
    """Send a hundred thousand empty tensors: refused, and the log stays small."""
    packed = save({f"t{number}": torch.zeros(0) for number in range(100_000)})
    array = Array(np.frombuffer(packed, np.uint8))
    arrays = {messages.ADAPTER: ArrayRecord({records.PACKED: array})}
    asked = {"site-rank": 4, "run-rank": 4}
    assert refusal(hospital.ask(messages.VALIDATE, arrays=arrays, **asked))
    assert hospital.audit.stat().st_size < 4 * MIB


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_poison_are_refused(hospital: Hospital, value: float) -> None:
    """Send an adapter with NaN, infinity or 10³⁰: refused."""
    adapter = start()
    first = next(iter(adapter.layers.values()))
    first.A[0, 0] = value
    assert refusal(hospital.ask(messages.TRAIN, adapter))
