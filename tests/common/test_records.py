"""Adapters over the wire: bit for bit, and nothing else comes through."""

import io
import pickletools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common import Array
from flwr.common.inflatable import get_all_nested_objects
from flwr.common.inflatable_utils import inflate_object_from_contents
from flwr.common.serde import array_record_from_proto, array_record_to_proto
from flwr.proto import recorddict_pb2

from common import records
from common.config import MethodConfig, RunConfig
from common.errors import UserError
from tests.conftest import MakeAdapter

SHAPES = {"conv": (4, 9), "last": (2, 4)}
RANK = 3

Changes = Mapping[str, Array | None]


def by_proto(record: ArrayRecord) -> ArrayRecord:
    """Return the record after Flower's protocol buffers."""
    data = array_record_to_proto(record).SerializeToString()
    return array_record_from_proto(recorddict_pb2.ArrayRecord.FromString(data))


def by_objects(record: ArrayRecord) -> ArrayRecord:
    """Return the record after Flower's objects, as a SuperNode sends it."""
    objects = get_all_nested_objects(record)
    contents = {name: each.deflate() for name, each in objects.items()}
    received = inflate_object_from_contents(record.object_id, contents)
    assert isinstance(received, ArrayRecord)
    return received


def record_with(changes: Changes) -> ArrayRecord:
    """Return a valid record for SHAPES, changed (None takes an array out)."""
    arrays: dict[str, Array | None] = {}
    for name, (c_out, fan_in) in SHAPES.items():
        arrays[f"{name}.lora_A"] = Array(np.ones((RANK, fan_in), np.float32))
        arrays[f"{name}.lora_B"] = Array(np.ones((c_out, RANK), np.float32))
    changed = {**arrays, **changes}
    return ArrayRecord({name: array for name, array in changed.items() if array is not None})


def refusal(record: ArrayRecord) -> str:
    """Return why ``record_to_adapter`` refuses a record."""
    with pytest.raises(ValueError) as caught:
        records.record_to_adapter(record, 1.0, SHAPES, RANK)
    return str(caught.value)


def array_of(data: bytes, stype: str = "numpy.ndarray") -> Array:
    """Return an array that claims to be a valid ``conv.lora_B`` and holds ``data``."""
    return Array("float32", (4, RANK), stype, data)


def npy(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, value, **options)
    return buffer.getvalue()


def npy_claiming(header: str) -> bytes:
    """Return numpy's format with a header of one's own and no data."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


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
            {"x.lora_A": Array(np.ones((3, 1), "f4")), "x.lora_B": Array(np.ones((1, 3), "f4"))},
            "layer x is not in the model (1 in all)",
        ),
        ({"last.bias": Array(np.ones((2, 2), "f4"))}, "unexpected tensor last.bias"),
        (
            {"conv.lora_B": Array(np.ones((5, 3), "f4"))},
            "layer conv: shape (5, 9), expected (4, 9)",
        ),
        ({"conv.lora_B": Array(np.ones((4, 3, 1, 1), "f4"))}, "unexpected tensor conv.lora_B"),
        ({"conv.lora_B": Array(np.ones((4, 2), "f4"))}, "expected one rank in all layers"),
        ({"conv.lora_B": Array(np.ones((4, 3), "f8"))}, "is float64, expected float32"),
        ({"conv.lora_B": Array(np.ones((4, 3), "f2"))}, "is float16, expected float32"),
        ({"conv.lora_B": Array(np.ones((4, 3), "i4"))}, "is int32, expected float32"),
        ({"conv.lora_B": Array(np.ones((4, 3), ">f4"))}, "is >f4, expected float32"),
        ({"conv.lora_B": Array(np.full((4, 3), "a"))}, "is <U1, expected float32"),
        ({"conv.lora_B": Array(np.full((4, 3), np.nan, "f4"))}, "values that are not finite"),
        ({"conv.lora_B": Array(np.full((4, 3), np.inf, "f4"))}, "values that are not finite"),
        ({"conv.lora_B": Array(np.full((4, 3), -np.inf, "f4"))}, "values that are not finite"),
        ({"conv.lora_B": Array(np.full((4, 3), -3e38, "f4"))}, "values up to 3e+38"),
        ({"conv.lora_B": Array(np.full((4, 3), 1.1e6, "f4"))}, "expected at most 1e+06"),
    ],
)
def test_arrays_that_were_not_agreed_are_refused(changes: Changes, message: str) -> None:
    records.record_to_adapter(record_with({}), 1.0, SHAPES, RANK)
    assert message in refusal(record_with(changes))


def test_one_value_that_is_not_finite_is_enough() -> None:
    value = np.ones((4, RANK), np.float32)
    value[2, 1] = np.nan
    message = refusal(record_with({"conv.lora_B": Array(value)}))
    assert message == "conv.lora_B has values that are not finite"


def test_another_rank_than_agreed_is_refused() -> None:
    with pytest.raises(ValueError, match="rank 3, expected 2"):
        records.record_to_adapter(record_with({}), 1.0, SHAPES, 2)


def test_an_empty_record_is_refused() -> None:
    assert refusal(ArrayRecord()) == "the adapter is empty"


def test_a_pickle_is_refused_and_not_opened(tmp_path: Path) -> None:
    fuse = tmp_path / "exploded"
    data = npy(np.array([Bomb(fuse)], dtype=object), allow_pickle=True)
    assert "cannot be read" in refusal(record_with({"conv.lora_B": array_of(data)}))
    bare = data[data.index(b"\x80") :]
    assert "cannot be read" in refusal(record_with({"conv.lora_B": array_of(bare)}))
    assert not fuse.exists()
    pickletools.dis(bare, out=io.StringIO())  # it is a pickle,
    np.load(io.BytesIO(data), allow_pickle=True)
    assert fuse.exists()  # and a live one


VALID = npy(np.ones((4, RANK), np.float32))
ZIP = io.BytesIO()
np.savez(ZIP, np.ones((4, RANK), np.float32))
HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s,)}"
GARBAGE = {
    "nothing": array_of(b""),
    "text": array_of(b"an adapter, honestly"),
    "half": array_of(VALID[:-2]),
    "half a header": array_of(VALID[:40]),
    "another type of array": array_of(VALID, stype="torch.tensor"),
    "archive": array_of(ZIP.getvalue()),
    "broken archive": array_of(b"PK\x03\x04" + bytes(50)),
    "broken header": array_of(npy_claiming("{'descr': ((((")),
    "more than there is": array_of(npy_claiming(HUGE % 10**6)),
    "more than fits in memory": array_of(npy_claiming(HUGE % 10**16)),
    "more than can be counted": array_of(npy_claiming(HUGE % 10**24)),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_bytes_that_are_no_array_are_refused_as_values(what: str) -> None:
    assert "conv.lora_B" in refusal(record_with({"conv.lora_B": GARBAGE[what]}))


@pytest.mark.parametrize("what", GARBAGE)
def test_counting_bytes_survives_what_is_no_array(what: str) -> None:
    rest = records.payload_bytes(record_with({"conv.lora_B": None}))
    size = records.payload_bytes(record_with({"conv.lora_B": GARBAGE[what]}))
    assert size == rest + len(GARBAGE[what].data)


def test_the_payload_of_a_record_is_that_of_its_adapter(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(rank=5)
    assert records.payload_bytes(records.adapter_to_record(adapter)) == adapter.payload_bytes
    assert records.payload_bytes(ArrayRecord()) == 0


def test_a_configuration_comes_back_with_the_keys_of_the_message() -> None:
    config = RunConfig(method=MethodConfig(rounds=9, lambda_0=0.5), seed=4, resume=True)
    record = records.config_to_record(config, **{"server-round": 2, "site-rank": 16})
    back, extra = records.record_to_config(record)
    assert back == config
    assert extra == {"server-round": 2, "site-rank": 16}


def test_a_message_with_an_unknown_key_is_refused() -> None:
    record = ConfigRecord({**RunConfig().to_flat(), "lambda-1": 0.3})
    with pytest.raises(UserError, match="message from the server: unknown key 'lambda-1'"):
        records.record_to_config(record)
