"""Declaring keys of configuration, and the one parser of every settings file and message.

A dataclass declares its keys with :func:`option`; a field that is itself a dataclass is a group of
keys. :func:`parse` reads flat kebab-case keys into the dataclass.

pydantic 2.14 was tried instead. It would save about 40 of the 120 lines of code here, but its
errors name half of a range, blame a group for a fault between keys, and say what was expected only
with a table of our own. It adds four packages (11 MB) and 0.2 s to the start of every process.
"""

import difflib
import math
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin

from common.errors import UserError

Value = bool | int | float | str
"""The types of a value in Flower's run configuration."""

Check = tuple[str, object, bool, str]
"""A key, its value (None where the key is missing), whether it is good, and what is expected."""

AFFECTS = {
    "result": "the numbers of the result",
    "length": "how many rounds are run, and with how many sites",
    "input": "where the data and the base model are",
    "place": "where the run keeps its own files, and whether it goes on from them",
    "machine": "what computes, and how long the server waits for it",
    "output": "what is measured and written besides the result",
    "keys": "other keys, whose values the resolved configuration holds",
}
"""What a key of a run can affect, with a description."""

LONGEST = 4096
"""Most characters of a text, unless its key is declared with another number."""

T = TypeVar("T")


def option(
    default: Any = MISSING,
    *,
    affects: str = "",
    key: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    choices: tuple[str, ...] = (),
    longest: int = LONGEST,
) -> Any:
    """Declare a key.

    Parameters
    ----------
    default
        The value where the key is not given; without a default the key must be given.
    affects
        What the key of a run affects, one of ``AFFECTS``; see :func:`every_key_affects`.
    key
        The key; the default is the field's name in kebab-case.
    low, high, above
        The range of a number, or of each number of a list: [low, high], and > above.
    choices
        The values that are allowed.
    longest
        The most characters of a text.
    """
    if affects and affects not in AFFECTS:
        raise TypeError(f"affects: found {affects!r}, expected one of {list(AFFECTS)}")
    limits = {"low": low, "high": high, "above": above, "choices": choices, "longest": longest}
    return field(default=default, metadata={"key": key, "affects": affects, **limits})


def every_key_affects(cls: type[T]) -> type[T]:
    """Decorate a dataclass: raises TypeError unless every key is declared with ``affects``."""
    for key, spec in keys_of(cls).items():
        if not spec.metadata.get("affects"):
            raise TypeError(f"{cls.__name__}: {key}: found no 'affects'")
    return cls


def keys_of(cls: Any) -> Mapping[str, Any]:
    """Return a dataclass's fields by key in their order, with the fields of its groups."""
    found: dict[str, Any] = {}
    for spec in fields(cls):
        found |= keys_of(spec.type) if is_dataclass(spec.type) else {_key(spec): spec}
    return found


def to_flat(settings: Any) -> dict[str, Any]:
    """Return every key of a dataclass with its value, as :func:`parse` reads them."""
    flat: dict[str, Any] = {}
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        flat |= to_flat(value) if is_dataclass(value) else {_key(spec): value}
    return flat


def parse(cls: type[T], flat: Mapping[str, object], source: str, **given: object) -> T:
    """Build a dataclass from flat keys over its defaults.

    Parameters
    ----------
    cls
        The dataclass. If it or a group of it has a method ``checks``, every ``Check`` that this
        returns must be good.
    flat
        Values by key.
    source
        The file or message that the values come from; every error begins with it.
    **given
        Values of further fields, which ``flat`` may not set.

    Raises
    ------
    UserError
        A key is unknown or missing, or its value is of the wrong type or out of range.
    """
    known = {key: spec for key, spec in keys_of(cls).items() if spec.name not in given}
    if unknown := sorted(set(flat) - set(known)):
        raise UserError(f"{source}: {_unknown(unknown[0], sorted(known))}")
    for key, spec in known.items():
        if key not in flat and spec.default is MISSING and spec.default_factory is MISSING:
            raise UserError(f"{source}: found no {key!r}, expected one")
    values = {known[key].name: checked(key, flat[key], known[key], source) for key in flat}
    return cast(T, _built(cls, {**given, **values}, source))


def _built(cls: Any, values: Mapping[str, object], source: str) -> object:
    own = {spec.name: values[spec.name] for spec in fields(cls) if spec.name in values}
    groups = {
        spec.name: _built(spec.type, values, source)
        for spec in fields(cls)
        if is_dataclass(spec.type)
    }
    made = cls(**own, **groups)
    checks: Iterable[Check] = made.checks() if hasattr(made, "checks") else ()
    for key, found, good, expected in checks:
        if not good:
            what = f"found no {key!r}" if found is None else f"{key}: found {found!r}"
            raise UserError(f"{source}: {what}, expected {expected}")
    return made


def _key(spec: Any) -> str:
    return str(spec.metadata.get("key") or spec.name.replace("_", "-"))


def _unknown(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key, known, 1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown key {key!r}{hint}; known are {', '.join(known)}"


def checked(key: str, value: object, spec: Any, source: str) -> Any:
    """Return ``value`` as the type of the dataclass field ``spec``, checked against its limits.

    The field's type is bool, int, float or str, one of these or None, a tuple of one of these for
    a list of different items, or a mapping for a table. ``key`` and ``source`` are for the error.

    Raises
    ------
    UserError
        The value is of another type, out of range or not among the choices.
    """
    kind, inner = get_origin(spec.type), get_args(spec.type)
    if kind is tuple:
        items = value if isinstance(value, list) else [None]
        if any(type(item) is not inner[0] for item in items) or len(set(items)) < len(items):
            raise UserError(
                f"{source}: {key}: found {value!r}, "
                f"expected a list of different {inner[0].__name__}s"
            )
        return tuple(_limited(key, item, spec.metadata, source) for item in items)
    if isinstance(value, str) and len(value) > (most := spec.metadata.get("longest", LONGEST)):
        raise UserError(f"{source}: {key}: found {len(value)} characters, expected at most {most}")
    expected = dict if kind is Mapping else inner[0] if kind is UnionType else spec.type
    if expected is float and type(value) is int and abs(value) < 2**1023:
        value = float(value)
    if type(value) is not expected:
        name = "table" if expected is dict else expected.__name__
        raise UserError(
            f"{source}: {key}: found {value!r} ({type(value).__name__}), expected a {name}"
        )
    return _limited(key, value, spec.metadata, source)


def _limited(key: str, value: object, limits: Mapping[str, Any], source: str) -> object:
    if (choices := limits.get("choices")) and value not in choices:
        raise UserError(f"{source}: {key}: found {value!r}, expected one of {list(choices)}")
    if isinstance(value, int | float) and limits and type(value) is not bool:
        low, high, above = limits["low"], limits["high"], limits["above"]
        if not (low <= value <= high and above < value < math.inf):
            floor = f"above {_number(above)}" if above > -math.inf else f"at least {_number(low)}"
            ceiling = "" if high == math.inf else f" and at most {_number(high)}"
            raise UserError(f"{source}: {key}: found {value}, expected {floor}{ceiling}")
    return value


def _number(limit: float) -> str:
    return f"{limit:.0f}" if float(limit).is_integer() else f"{limit:g}"


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises UserError where it is missing or not TOML."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not TOML ({error})") from None
