"""Packs adapters and other tensors into the arrays of a message, and reads them back."""

import io
import json
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from flwr.app import ArrayRecord
from flwr.common import Array
from safetensors.torch import load, save
from torch import Tensor

from common.adapter import Adapter
from common.method import Half

PACKED = "tensors"
"""Name of the one array of an adapter."""
NPY = b"\x93NUMPY\x01\x00"
"""First bytes of numpy's format, version 1.0; the header's length follows in two bytes."""
LARGEST = 1e6
"""Largest absolute value of a tensor. Trained values are below 10; larger ones than this would
overflow in a merge."""


def adapter_to_record(adapter: Adapter) -> ArrayRecord:
    """Return the adapter's factors, ``LAYER.lora_A`` and ``…lora_B``, as one packed array."""
    return tensors_to_record(adapter.tensors())


def tensors_to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors packed into one array of bytes, in safetensors' format.

    Flower asks for every array of a message with a signed request of its own, so the factors of
    an adapter sent one by one cost several percent more than they hold.
    """
    parts = _safetensors(tensors)
    size = sum(map(len, parts))
    head = io.BytesIO()
    form = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
    np.lib.format.write_array_header_1_0(head, form)
    data = b"".join([head.getvalue(), *parts])  # the only copy; numpy and safetensors make three
    return ArrayRecord({PACKED: Array("uint8", (size,), "numpy.ndarray", data)})


def _safetensors(tensors: Mapping[str, Tensor]) -> list[bytes | memoryview]:
    """Return what ``safetensors.torch.save`` makes, in parts that share memory with the tensors."""
    if any(value.dtype != torch.float32 for value in tensors.values()):
        return [save({name: value.contiguous() for name, value in tensors.items()})]
    listed, parts, start = {}, [], 0
    for name, value in sorted(tensors.items()):
        if value.numel():
            parts.append(value.detach().cpu().contiguous().numpy().data.cast("B"))
        end = start + 4 * value.numel()
        offsets = [start, end]
        listed[name] = {"dtype": "F32", "shape": [*value.shape], "data_offsets": offsets}
        start = end
    head = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    return [len(head).to_bytes(8, "little"), head, *parts]


def record_to_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of a received record by name, without checking names or values.

    Raises
    ------
    ValueError
        The record is not what :func:`tensors_to_record` makes.
    """
    if extra := sorted(set(record) - {PACKED}):
        raise ValueError(f"array {extra[0]!r} is not on the list")
    if PACKED not in record:
        raise ValueError("the adapter is empty")
    try:
        packed = record[PACKED].numpy()  # Flower reads numpy's format without its pickles
        if not (isinstance(packed, np.ndarray) and packed.dtype == np.uint8 and packed.ndim == 1):
            raise ValueError("not an array of bytes")  # numpy opens a zip archive as a mapping
        return load(packed.tobytes())
    except Exception as error:  # hostile bytes raise anything from EOFError to MemoryError
        raise ValueError(f"the adapter cannot be read as safetensors ({error})") from None


def read_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Return a received record's tensors, checked to be float32, finite and at most ``LARGEST``.

    Raises
    ------
    ValueError
        A tensor fails a check, or the record does not hold packed tensors.
    """
    tensors = record_to_tensors(record)
    for name, value in tensors.items():
        if value.dtype != torch.float32:
            raise ValueError(f"{name} is {type_name(value)}, expected float32")
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
        if value.numel() and (most := float(value.abs().max())) > LARGEST:
            raise ValueError(f"{name} has values up to {most:.3g}, expected at most {LARGEST:g}")
    return tensors


def record_to_adapter(
    record: ArrayRecord, scale: float, shapes: Mapping[str, tuple[int, int]], rank: int | None
) -> Adapter:
    """Read and check a received adapter.

    Parameters
    ----------
    record
        What :func:`adapter_to_record` made.
    scale
        alpha / rank of the run.
    shapes
        (c_out, c_in·k·k) of every adapted layer.
    rank
        The rank that the sender must use; None for any.

    Raises
    ------
    ValueError
        Names, shapes, types, values or rank are not the expected ones.
    """
    tensors = read_tensors(record)
    if not tensors:
        raise ValueError("the adapter is empty")
    adapter = Adapter.from_tensors(tensors, scale)
    adapter.check_fits(shapes)
    if rank is not None and adapter.rank != rank:
        raise ValueError(f"rank {adapter.rank}, expected {rank}")
    return adapter


def halves_to_record(adapter: Adapter, halves: Sequence[Half]) -> ArrayRecord:
    """Return these halves of the adapter's factors (A, B or both), packed into one array."""
    endings = tuple(f".lora_{half}" for half in halves)
    return tensors_to_record({k: v for k, v in adapter.tensors().items() if k.endswith(endings)})


def record_to_whole(
    record: ArrayRecord | None,
    halves: Sequence[Half],
    rest: Adapter,
    shapes: Mapping[str, tuple[int, int]],
) -> Adapter:
    """Read the halves of an adapter that were sent, and take the others from ``rest``.

    Parameters
    ----------
    record
        What :func:`halves_to_record` made; None where nothing is sent.
    halves
        The halves that must be there; no others may be.
    rest
        An adapter of the expected rank and scale.
    shapes
        (c_out, c_in·k·k) of every adapted layer.

    Raises
    ------
    ValueError
        See :func:`record_to_adapter`.
    """
    tensors = {} if record is None else read_tensors(record)
    if halves and not tensors:
        raise ValueError("the adapter is empty")
    for name in tensors:
        if not name.endswith(tuple(f".lora_{half}" for half in halves)):
            raise ValueError(f"unexpected tensor {name}")
    held = {k: v for k, v in rest.tensors().items() if k.rpartition("_")[2] not in halves}
    adapter = Adapter.from_tensors({**held, **tensors}, rest.scale)
    adapter.check_fits(shapes)
    if adapter.rank != rest.rank:
        raise ValueError(f"rank {adapter.rank}, expected {rest.rank}")
    return adapter


def record_to_named(record: ArrayRecord, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Read tensors whose names and shapes are known beforehand.

    Raises
    ------
    ValueError
        A tensor is missing, unknown, of another shape, or not sound; see :func:`read_tensors`.
    """
    tensors = read_tensors(record)
    if missing := sorted(set(shapes) - set(tensors)):
        raise ValueError(f"{missing[0]} is missing ({len(missing)} in all)")
    if extra := sorted(set(tensors) - set(shapes)):
        raise ValueError(f"{extra[0]} is not in the model ({len(extra)} in all)")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != tuple(shape):
            raise ValueError(f"{name}: shape {tuple(tensors[name].shape)}, expected {tuple(shape)}")
    return tensors


def type_name(value: Tensor) -> str:
    """Return a tensor's type as people write it, such as ``float32``."""
    return str(value.dtype).removeprefix("torch.")


def payload_bytes(record: ArrayRecord) -> int:
    """Return the bytes of a record's tensors without their headers, without parsing the tensors.

    An array without the expected headers counts in full; its reader will refuse it.
    """
    return sum(len(array.data) - header_bytes(array.data) for array in record.values())


def header_bytes(data: bytes) -> int:
    """Return the length of the headers of numpy and safetensors; 0 where they are not there."""
    start = len(NPY) + 2 + int.from_bytes(data[len(NPY) : len(NPY) + 2], "little")
    length = start + 8 + int.from_bytes(data[start : start + 8], "little")
    return length if data.startswith(NPY) and length <= len(data) else 0
