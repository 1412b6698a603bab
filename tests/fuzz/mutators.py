"""Damages good inputs at random, but the same way for the same seed: bytes, JSON and messages."""

import copy
import json
import math
from collections.abc import Sequence
from random import Random
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict

STRANGE_BYTES: tuple[bytes, ...] = (
    b"",
    b"\x00",
    b"\xff" * 8,
    b"\x00" * 8,
    b"\xff\xff\xff\x7f",
    b"-1",
    b"1e999",
)
STRANGE_BYTES += (b"NaN", b'"', b"{", b"}", b"[" * 3000, b",", b"\n", b"\r", b"\\u0000", b"../")
STRANGE_BYTES += (b"\xed\xa0\x80", b"\xef\xbb\xbf", b"=1+1", b"%s", b"9" * 5000, b"null", b"true")
"""What breaks parsers: ends, signs, nesting, numbers beyond every range, halves of a character."""
STRANGE_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "ü" * 300,
        "x" * 5000,
        "../../x",
        "\x1b[2J",
        "a\nb",
        "NaN",
        "\ud800",
    ),
    *(0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63), 10**30, 0.5, 1e308, 1e-320),
    *(math.nan, math.inf, -math.inf, [], {}, [[]], {"a": {}}, [1] * 100, {"": None}),
)
NUMBERS = tuple(
    value for value in STRANGE_VALUES if isinstance(value, int | float) and abs(value) < 2**63
)
TEXTS = tuple(value for value in STRANGE_VALUES if isinstance(value, str) and value != "\ud800")
FLOWER_VALUES = (*NUMBERS, *TEXTS, b"", b"\xff" * 100, [1, 2], [0.5], ["a"], [True])
"""What a record of Flower's can hold."""


def damaged(good: Sequence[bytes], random: Random) -> bytes:
    """Return one of the good inputs with one to four faults."""
    data = bytearray(random.choice(good))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        at = random.randrange(len(data) + 1)
        if random.random() < 0.5:  # what is at the beginning decides about the rest
            at = min(at, random.randrange(600))
        end = min(len(data), at + random.choice((1, 2, 4, 8, 64, 1024)))
        match random.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << random.randrange(8)
            case 1:
                data[at:end] = random.randbytes(end - at)
            case 2:
                del data[at:end]
            case 3:
                data[at:at] = data[at:end]
            case 4:
                data[at:end] = random.choice(STRANGE_BYTES)
            case 5:
                data[at:at] = random.choice(STRANGE_BYTES)
            case _:
                del data[at if random.random() < 0.2 else max(at, len(data) - 100) :]
    return bytes(data)


def strange_json(good: Any, random: Random) -> str:
    """Return JSON in which one to three values or keys are not what they should be."""
    value = copy.deepcopy(good)
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _strange(value, random)
    return json.dumps(value)


def _strange(value: Any, random: Random) -> Any:
    if not isinstance(value, dict | list) or not value or random.random() < 0.05:
        return copy.deepcopy(random.choice(STRANGE_VALUES))
    key = random.choice(list(value) if isinstance(value, dict) else range(len(value)))
    match random.randrange(5):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            value[random.choice(TEXTS)] = value[key]
        case 1 if isinstance(value, list):
            value.append(value[key])
        case _:
            value[key] = _strange(value[key], random)
    return value


def strange_record(content: RecordDict, random: Random) -> RecordDict:
    """Return a message's content with one to three keys, values or records changed."""
    records = dict(content)
    for _ in range(random.choice((1, 1, 2, 3))):
        name = random.choice(list(records) or [""])
        record = records.get(name)
        match random.randrange(6):
            case 0:
                records.pop(name, None)
            case 1 if record is not None:
                records[random.choice((*TEXTS, "fold", "other-1", "metrics", "config"))] = record
            case 2:
                records[name] = random.choice((MetricRecord(), ConfigRecord()))
            case _:
                records[name] = _strange_values(record, random)
    return RecordDict(records)


def _strange_values(record: Any, random: Random) -> Any:
    """Return a copy of a record with another value or key; arrays stay as they are."""
    if not isinstance(record, MetricRecord | ConfigRecord):
        return record if record is not None else ConfigRecord()
    values: dict[str, Any] = dict(record)
    strange = NUMBERS if isinstance(record, MetricRecord) else FLOWER_VALUES
    key = random.choice((*values, random.choice(TEXTS)))
    if random.random() < 0.2:
        values.pop(key, None)
    else:
        found = random.choice(strange)
        if isinstance(record, MetricRecord) and isinstance(found, bool):
            found = int(found)
        values[key] = found
    return type(record)(values)
