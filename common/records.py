"""The one place where adapters become Flower records and come back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord
from flwr.common import Array
from numpy.typing import NDArray

from common.adapter import Adapter
from common.config import RunConfig
from common.options import Value

ADAPTER = "adapter"
"""Key of the adapter in a message."""
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
    """Return the adapter's factors as arrays, float32, named ``LAYER.lora_A`` and ``…lora_B``."""
    return ArrayRecord({name: Array(value.numpy()) for name, value in adapter.tensors().items()})


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
        ``LARGEST``, or the bytes are no array.
    """
    tensors = {}
    for name, array in record.items():
        value = decoded(name, array)
        if value.dtype != np.float32:
            raise ValueError(f"{name} is {value.dtype}, expected float32")
        if not np.isfinite(value).all():
            raise ValueError(f"{name} has values that are not finite")
        if (most := float(np.abs(value).max(initial=0))) > LARGEST:
            raise ValueError(f"{name} has values up to {most:.3g}, expected at most {LARGEST:g}")
        tensors[name] = torch.from_numpy(value)
    if not tensors:
        raise ValueError("the adapter is empty")
    adapter = Adapter.from_tensors(tensors, scale)
    adapter.check_fits(shapes)
    if adapter.rank != rank:
        raise ValueError(f"rank {adapter.rank}, expected {rank}")
    return adapter


def payload_bytes(record: ArrayRecord) -> int:
    """Return the bytes of a record's arrays, without names and framing.

    An array that cannot be read counts with all its bytes; whoever uses it will refuse it.
    """
    return sum(_nbytes(array) for array in record.values())


def _nbytes(array: Array) -> int:
    try:
        return decoded("", array).nbytes
    except ValueError:
        return len(array.data)


def decoded(name: str, array: Array) -> NDArray[Any]:
    """Return an array's values.

    Raises
    ------
    ValueError
        Its bytes, which are a stranger's, are not those of an array.
    """
    try:
        value = array.numpy()  # Flower reads numpy's format without its pickles
    except Exception as error:  # from EOFError to MemoryError, as the bytes will have it
        raise ValueError(f"{name} cannot be read as an array ({error})") from None
    if not isinstance(value, np.ndarray):  # numpy opens a zip archive as a mapping
        raise ValueError(f"{name} is not an array")
    return value


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
