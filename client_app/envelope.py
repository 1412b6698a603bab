"""The envelope of a message: its type, its records and their sizes, before any of it is parsed."""

from collections.abc import Mapping
from functools import lru_cache

from flwr.app import ArrayRecord, ConfigRecord, Message

from client_app.limits import features
from client_app.settings import SiteSettings
from common import lora, messages, records
from common.config import HIGHEST_RANK
from common.messages import ADAPTER, CONFIG, FOLD, FOLDED, OTHER
from common.model import skeleton, weight_bytes
from common.options import Value
from common.text import clean

MOST_KEYS = 200
LONGEST_KEY = 100
LONGEST_TEXTS = 200_000
"""Most characters of all texts of a message."""
MOST_OTHERS = 64
"""Most adapters to rate in a message."""
FOLDED_RANK = 8 * HIGHEST_RANK
"""Highest rank of an adapter to fold, in which the adapters of all sites are stacked."""
LARGEST_HEADER = 2**16
"""Most bytes of names and shapes before the tensors of an array."""
OTHERS = frozenset(OTHER.format(number) for number in range(1, MOST_OTHERS + 1))


def fault(message: Message, settings: SiteSettings) -> str:
    """Return what is wrong with a message; empty where it may be read.

    The sizes of arrays follow from the network of the site's own base file; in a simulation they
    are not looked at.

    Raises
    ------
    UserError
        The site's base file cannot be read.
    """
    kind = message.metadata.message_type
    if kind not in messages.REQUESTS:
        return f"found type {clean(kind)!r}, expected one of {[*messages.REQUESTS]}"
    if message.has_error():
        return "found an error in place of the content"
    largest = None if settings.simulated or not settings.base_model else sizes(features(settings))
    for name, record in message.content.items():
        if name == CONFIG and isinstance(record, ConfigRecord):
            found = _config_fault(record)
        elif name in {ADAPTER, FOLD, FOLDED, *OTHERS} and isinstance(record, ArrayRecord):
            most = largest.get(name, largest[ADAPTER]) if largest else None
            found = _array_fault(record, most)
        else:
            found = f"found a record {clean(name)!r} that no request has"
        if found:
            return found
    return "" if CONFIG in message.content else f"found no record {CONFIG!r}"


@lru_cache(maxsize=4)
def sizes(channels: tuple[int, ...]) -> Mapping[str, int]:
    """Return the most bytes of tensors in each record of arrays, for a network."""
    network = skeleton(channels)
    layers = lora.layer_shapes(network).values()
    of_rank_one = 4 * sum(c_out + fan_in for c_out, fan_in in layers)
    return {
        ADAPTER: max(HIGHEST_RANK * of_rank_one, weight_bytes(network)),
        FOLD: FOLDED_RANK * of_rank_one,
        FOLDED: 4 * sum(c_out * fan_in for c_out, fan_in in layers),
    }


def most_bytes(settings: SiteSettings) -> int:
    """Return the most bytes that a whole request to a deployed site may have."""
    largest = sizes(features(settings))
    return sum(largest.values()) + MOST_OTHERS * largest[ADAPTER] + 2**20


def _config_fault(config: ConfigRecord) -> str:
    if len(config) > MOST_KEYS:
        return f"found {len(config)} keys, expected at most {MOST_KEYS}"
    texts = 0
    for key, value in config.items():
        if len(key) > LONGEST_KEY:
            return f"found a key of {len(key)} characters, expected at most {LONGEST_KEY}"
        if not isinstance(value, Value):
            return f"{key}: found a {type(value).__name__}, expected a single value"
        texts += len(value) if isinstance(value, str) else 0
    if texts > LONGEST_TEXTS:
        return f"found {texts} characters of text, expected at most {LONGEST_TEXTS}"
    return ""


def _array_fault(record: ArrayRecord, most: int | None) -> str:
    if len(record) > 1:
        return f"found {len(record)} arrays in a record, expected one"
    for array in record.values():
        header = records.header_bytes(array.data)
        if header > LARGEST_HEADER:
            return f"found names and shapes of {header} bytes, expected at most {LARGEST_HEADER}"
        if most is None:
            continue
        if not header or (array.dtype, array.stype) != ("uint8", "numpy.ndarray"):
            return "found an array that holds no packed tensors"
        if (size := len(array.data) - header) > most:
            return f"found tensors of {size} bytes, this site's network has at most {most}"
    return ""
