"""The one place where adapters become Flower records and come back."""

from collections.abc import Mapping

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common import Array
from safetensors.torch import load, save
from torch import Tensor

from common.adapter import Adapter
from common.config import RunConfig
from common.options import Value

ADAPTER = "adapter"
"""Key of the adapter in a message."""
PACKED = "tensors"
"""Name of the one array of an adapter."""
CONFIG = "config"
"""Key of the run configuration, and of what a site says of itself."""
METRICS = "metrics"
"""Key of the numbers a site reports."""

DESCRIBE = "query.describe"
"""Ask a site who it is, what it holds and which base file it has."""
TRAIN = "train"
VALIDATE = "evaluate"
TEST = "evaluate.test"

LARGEST = 1e6
"""Of a factor's values. Trained ones are below 10; what is above this would overflow in a merge."""

ERROR = "error"
"""Key in a reply's configuration: what is wrong at the site, for people."""


def adapter_to_record(adapter: Adapter) -> ArrayRecord:
    """Return the adapter's factors, ``LAYER.lora_A`` and ``…lora_B``, as one packed array."""
    return tensors_to_record(adapter.tensors())


def tensors_to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return tensors packed into one array of bytes, in safetensors' format.

    Flower asks for every array of a message with a signed request of its own, so the factors of
    an adapter sent one by one cost several percent more than they hold.
    """
    data = save({name: value.contiguous() for name, value in tensors.items()})
    return ArrayRecord({PACKED: Array(np.frombuffer(data, np.uint8))})


def record_to_tensors(record: ArrayRecord) -> dict[str, Tensor]:
    """Return the tensors of a record that came over the wire, by name; nothing else is checked.

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
    except Exception as error:  # from EOFError to MemoryError, as the bytes will have it
        raise ValueError(f"the adapter cannot be read as safetensors ({error})") from None


def record_to_adapter(
    record: ArrayRecord, scale: float, shapes: Mapping[str, tuple[int, int]], rank: int
) -> Adapter:
    """Read and check an adapter that came over the wire.

    Parameters
    ----------
    record
        What :func:`adapter_to_record` made.
    scale
        alpha / rank of the run.
    shapes
        (c_out, c_in·k·k) of every adapted layer.
    rank
        The rank that was agreed with the sender.

    Raises
    ------
    ValueError
        Names, shapes, type or rank are not the expected ones, a value is not finite or beyond
        ``LARGEST``, or the bytes are no adapter.
    """
    tensors = record_to_tensors(record)
    for name, value in tensors.items():
        if value.dtype != torch.float32:
            raise ValueError(f"{name} is {type_name(value)}, expected float32")
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
        if value.numel() and (most := float(value.abs().max())) > LARGEST:
            raise ValueError(f"{name} has values up to {most:.3g}, expected at most {LARGEST:g}")
    if not tensors:
        raise ValueError("the adapter is empty")
    adapter = Adapter.from_tensors(tensors, scale)
    adapter.check_fits(shapes)
    if adapter.rank != rank:
        raise ValueError(f"rank {adapter.rank}, expected {rank}")
    return adapter


def type_name(value: Tensor) -> str:
    """Return a tensor's type as people write it, such as ``float32``."""
    return str(value.dtype).removeprefix("torch.")


def payload_bytes(record: ArrayRecord) -> int:
    """Return the bytes of a record's tensors, without names and framing.

    A record that cannot be read counts with all its bytes; whoever uses it will refuse it.
    """
    try:
        return sum(value.nbytes for value in record_to_tensors(record).values())
    except ValueError:
        return sum(len(array.data) for array in record.values())


def config_to_record(config: RunConfig, **more: Value) -> ConfigRecord:
    """Return the configuration as a flat record, with what a single message adds to it."""
    return ConfigRecord({**config.to_flat(), **more})


MESSAGE_KEYS = ("server-round", "site-rank")
"""What :func:`config_to_record` adds to the run configuration in a message."""


def record_to_config(record: ConfigRecord) -> tuple[RunConfig, dict[str, int]]:
    """Read what :func:`config_to_record` made: the configuration, and the message's own keys."""
    flat: dict[str, Value] = {}
    extra: dict[str, int] = {}
    for key, value in record.items():
        if key in MESSAGE_KEYS:
            extra[key] = int(value)  # type: ignore[arg-type]
        else:
            flat[key] = value  # type: ignore[assignment]
    return RunConfig.from_flat(flat, "message from the server"), extra
