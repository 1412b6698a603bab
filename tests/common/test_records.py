"""Adapters cross the wire bit for bit, and anything else is refused."""

import io
import math
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from flwr.common import Array
from safetensors.torch import save
from torch import Tensor

from benchmarks.flower_private import (
    ArrayRecordProto,
    array_record_from_proto,
    array_record_to_proto,
    inflate_object_from_contents,
)
from common import records
from common.flower_private import get_all_nested_objects
from tests.conftest import MakeAdapter

SHAPES = {"conv": (4, 9), "last": (2, 4)}
RANK = 3

Changes = Mapping[str, Tensor | None]


def by_proto(record: ArrayRecord) -> ArrayRecord:
    """Return the record after a round trip through Flower's protocol buffers."""
    data = array_record_to_proto(record).SerializeToString()
    return array_record_from_proto(ArrayRecordProto.FromString(data))


def by_objects(record: ArrayRecord) -> ArrayRecord:
    """Return the record after a round trip through Flower's objects, as a SuperNode sends it."""
    objects = get_all_nested_objects(record)
    contents = {name: each.deflate() for name, each in objects.items()}
    received = inflate_object_from_contents(record.object_id, contents)
    assert isinstance(received, ArrayRecord)
    return received


def record_with(changes: Changes) -> ArrayRecord:
    """Return a valid record for SHAPES, changed (None takes an array out)."""
    tensors: dict[str, Tensor | None] = {}
    for name, (c_out, fan_in) in SHAPES.items():
        tensors[f"{name}.lora_A"] = torch.ones(RANK, fan_in)
        tensors[f"{name}.lora_B"] = torch.ones(c_out, RANK)
    changed = {**tensors, **changes}
    return records.tensors_to_record({k: v for k, v in changed.items() if v is not None})


def refusal(record: ArrayRecord) -> str:
    """Return why ``record_to_adapter`` refuses a record."""
    with pytest.raises(ValueError) as caught:
        records.record_to_adapter(record, 1.0, SHAPES, RANK)
    return str(caught.value)


def packed(data: bytes) -> ArrayRecord:
    """Return a record of one array of bytes, the form of a packed adapter."""
    return ArrayRecord({records.PACKED: Array(np.frombuffer(data, np.uint8))})


def claimed(data: bytes, stype: str = "numpy.ndarray") -> ArrayRecord:
    """Return a record whose ``data`` is declared to be an array of bytes."""
    return ArrayRecord({records.PACKED: Array("uint8", (len(data),), stype, data)})


def npy(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **options)
    return buffer.getvalue()


def npy_claiming(header: str) -> bytes:
    """Return numpy's format with this header and no data."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


def with_header(header: str, data: bytes = b"") -> bytes:
    """Return safetensors' format with this header."""
    return len(header).to_bytes(8, "little") + header.encode() + data


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("travel", [by_proto, by_objects])
def test_an_adapter_comes_back_bit_for_bit(
    make_adapter: MakeAdapter, travel: Callable[[ArrayRecord], ArrayRecord]
) -> None:
    adapter = make_adapter(rank=3, scale=0.1)
    shapes = {n: (f.B.shape[0], f.A.shape[1]) for n, f in adapter.layers.items()}
    received = travel(records.adapter_to_record(adapter))
    back = records.record_to_adapter(received, 0.1, shapes, 3)
    assert back.scale == 0.1
    assert list(back.tensors()) == list(adapter.tensors())
    for name, value in adapter.tensors().items():
        assert back.tensors()[name].dtype == torch.float32
        assert back.tensors()[name].numpy().tobytes() == value.numpy().tobytes()


def test_what_is_received_can_be_trained_on(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(rank=2)
    shapes = {n: (f.B.shape[0], f.A.shape[1]) for n, f in adapter.layers.items()}
    record = records.adapter_to_record(adapter)
    back = records.record_to_adapter(record, 1.0, shapes, 2)
    back.layers["final_conv"].A.add_(1)
    again = records.record_to_adapter(record, 1.0, shapes, 2)
    assert torch.equal(again.layers["final_conv"].A, adapter.layers["final_conv"].A)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"last.lora_A": None, "last.lora_B": None}, "layer last is missing (1 in all)"),
        ({"last.lora_B": None}, "last.lora_B is missing"),
        (
            {"x.lora_A": torch.ones(3, 1), "x.lora_B": torch.ones(1, 3)},
            "layer x is not in the model (1 in all)",
        ),
        ({"last.bias": torch.ones(2, 2)}, "unexpected tensor last.bias"),
        ({"conv.lora_B": torch.ones(5, 3)}, "layer conv: shape (5, 9), expected (4, 9)"),
        ({"conv.lora_B": torch.ones(4, 3, 1, 1)}, "unexpected tensor conv.lora_B"),
        ({"conv.lora_B": torch.ones(4, 2)}, "expected one rank in all layers"),
        ({"conv.lora_B": torch.ones(4, 3).double()}, "is float64, expected float32"),
        ({"conv.lora_B": torch.ones(4, 3).half()}, "is float16, expected float32"),
        ({"conv.lora_B": torch.ones(4, 3).bfloat16()}, "is bfloat16, expected float32"),
        ({"conv.lora_B": torch.ones(4, 3).int()}, "is int32, expected float32"),
        ({"conv.lora_B": torch.full((4, 3), math.nan)}, "values that are not finite"),
        ({"conv.lora_B": torch.full((4, 3), math.inf)}, "values that are not finite"),
        ({"conv.lora_B": torch.full((4, 3), -math.inf)}, "values that are not finite"),
        ({"conv.lora_B": torch.full((4, 3), -3e38)}, "values up to 3e+38"),
        ({"conv.lora_B": torch.full((4, 3), 1.1e6)}, "expected at most 1e+06"),
    ],
)
def test_tensors_that_were_not_agreed_are_refused(changes: Changes, message: str) -> None:
    records.record_to_adapter(record_with({}), 1.0, SHAPES, RANK)
    assert message in refusal(record_with(changes))


def test_one_value_that_is_not_finite_is_enough() -> None:
    value = torch.ones(4, RANK)
    value[2, 1] = math.nan
    message = refusal(record_with({"conv.lora_B": value}))
    assert message == "conv.lora_B has values that are not finite"


def test_another_rank_than_agreed_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 3, expected 2"):
        records.record_to_adapter(record_with({}), 1.0, SHAPES, 2)


@pytest.mark.parametrize("record", [ArrayRecord(), records.tensors_to_record({})])
def test_an_empty_record_is_refused(record: ArrayRecord) -> None:
    assert refusal(record) == "the adapter is empty"


def test_a_record_of_more_than_the_packed_tensors_is_refused() -> None:
    record = record_with({})
    record["image"] = record[records.PACKED]
    assert refusal(record) == "array 'image' is not on the list"


def test_a_pickle_is_refused_and_not_opened(tmp_path: Path) -> None:
    fuse = tmp_path / "exploded"
    data = npy(np.array([Bomb(fuse)], dtype=object), allow_pickle=True)
    bare = data[data.index(b"\x80") :]
    for record in (packed(bare), claimed(bare), claimed(data), claimed(bare, "torch.save")):
        assert "cannot be read" in refusal(record)
    assert not fuse.exists()
    pickletools.dis(bare, out=io.StringIO())  # it is a pickle,
    np.load(io.BytesIO(data), allow_pickle=True)
    assert fuse.exists()  # and a live one


VALID = record_with({})[records.PACKED].numpy().tobytes()
HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (%s,)}"
ENTRY = '{"conv.lora_B":{"dtype":"F32","shape":[%s],"data_offsets":[0,%s]}}'
GARBAGE = {
    "nothing": packed(b""),
    "text": packed(b"an adapter, honestly"),
    "half": packed(VALID[:-2]),
    "half a header": packed(VALID[:40]),
    "too long": packed(VALID + bytes(4)),
    "archive": packed(b"PK\x03\x04" + bytes(50)),
    "a header that is no JSON": packed(with_header("{{{{")),
    "a header of another kind": packed(with_header('{"conv.lora_B":1}')),
    "a header that has no end": packed(b"\xff" * 64),
    "a type of its own": packed(with_header((ENTRY % (1, 4)).replace("F32", "IMG"), bytes(4))),
    "more than there is": packed(with_header(ENTRY % (10**6, 4 * 10**6), bytes(4))),
    "more than fits in memory": packed(with_header(ENTRY % (10**16, 4 * 10**16), bytes(4))),
    "more than can be counted": packed(with_header(ENTRY % (10**24, 4 * 10**24), bytes(4))),
    "no array": claimed(b"123"),
    "an empty array": claimed(b""),
    "an array of floats": claimed(npy(np.ones(4))),
    "a table of bytes": claimed(npy(np.ones((4, 4), np.uint8))),
    "an array's archive": claimed(b"PK\x03\x04" + bytes(50)),
    "an array with a broken header": claimed(npy_claiming("{'descr': ((((")),
    "an array of more than there is": claimed(npy_claiming(HUGE % 10**16)),
    "another shape than bytes": packed(with_header(ENTRY % ("4, 3", 4), bytes(4))),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_bytes_that_are_no_adapter_are_refused_as_values(what: str) -> None:
    assert refusal(GARBAGE[what]).startswith("the adapter cannot be read")


@pytest.mark.parametrize("what", GARBAGE)
def test_counting_bytes_of_broken_records_raises_nothing(what: str) -> None:
    record = GARBAGE[what]
    assert 0 <= records.payload_bytes(record) <= len(record[records.PACKED].data)


@pytest.mark.parametrize("what", ["nothing", "text", "a header that has no end", "no array"])
def test_bytes_without_framing_count_whole(what: str) -> None:
    record = GARBAGE[what]
    assert records.payload_bytes(record) == len(record[records.PACKED].data)


def test_the_payload_of_a_record_is_that_of_its_adapter(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(rank=5)
    assert records.payload_bytes(records.adapter_to_record(adapter)) == adapter.payload_bytes
    assert records.payload_bytes(ArrayRecord()) == 0


@pytest.mark.parametrize(
    "tensors",
    [
        {"b": torch.randn(3, 4), 'é"x': torch.randn(2, 3).T, "a": torch.tensor(1.0)},
        {"z": torch.zeros(0, 3), "a": torch.zeros(2)},
        {f"n{number}": torch.randn(number, 3) for number in range(30)},
        {"a": torch.zeros(3, dtype=torch.float64)},
        {},
    ],
)
def test_a_record_is_what_numpy_and_safetensors_make(tensors: dict[str, torch.Tensor]) -> None:
    """It is put together without their copies, of which a whole network has too many."""
    data = save({name: value.contiguous() for name, value in tensors.items()})
    theirs = ArrayRecord({records.PACKED: Array(np.frombuffer(data, np.uint8))})
    assert records.tensors_to_record(tensors) == theirs
    assert records.tensors_to_record(tensors).object_id == theirs.object_id
