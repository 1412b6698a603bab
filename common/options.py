"""One key of the configuration: how it is declared and how a value for it is checked."""

import math
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Any

from common.errors import UserError

Value = bool | int | float | str
"""What Flower's run configuration can hold."""


def option(
    default: Value,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
    choices: tuple[str, ...] = (),
) -> Any:
    """Declare a key: its default, its range ([low, high], and > above) or its choices."""
    limits = {"low": low, "high": high, "above": above, "choices": choices}
    return field(default=default, metadata=limits)


def checked(key: str, value: object, spec: Any, source: str) -> Value:
    """Return ``value`` as the field's type after checking it against the field's limits.

    Parameters
    ----------
    key
        The key, for the error.
    value
        What was found.
    spec
        The dataclass field that was declared with :func:`option`.
    source
        Where the value comes from, for the error.

    Raises
    ------
    UserError
        It is of another type, out of range or not among the choices.
    """
    expected: type = spec.type
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise UserError(
            f"{source}: {key}: found {value!r} ({type(value).__name__}), "
            f"expected a {expected.__name__}"
        )
    limits = spec.metadata
    if (choices := limits.get("choices")) and value not in choices:
        raise UserError(f"{source}: {key}: found {value!r}, expected one of {list(choices)}")
    if isinstance(value, int | float) and limits and expected is not bool:
        low, high, above = limits["low"], limits["high"], limits["above"]
        if not (low <= value <= high and above < value < math.inf):
            raise UserError(f"{source}: {key}: found {value}, expected {_range(low, high, above)}")
    return value  # type: ignore[return-value]


def _range(low: float, high: float, above: float) -> str:
    floor = f"above {above:g}" if above > -math.inf else f"at least {low:g}"
    return floor if high == math.inf else f"{floor} and at most {high:g}"


def read_toml(path: Path) -> dict[str, Value]:
    """Read a TOML file of flat keys.

    Raises
    ------
    UserError
        The file is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error})") from None
