"""One parser reads all settings, and its errors name source, key, what was found and expected."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.errors import UserError
from common.options import (
    AFFECTS,
    Check,
    every_key_affects,
    keys_of,
    option,
    parse,
    read_toml,
    to_flat,
)


@dataclass(frozen=True)
class Wheel:
    """A group that checks itself."""

    spokes: int = option(8, low=1, high=99)
    wide: bool = False

    def checks(self) -> Iterator[Check]:
        """Yield what must hold."""
        yield "spokes", self.spokes, self.spokes % 2 == 0, "an even number"


@dataclass(frozen=True)
class Cart:
    """Every type that a key can have."""

    wheel: Wheel
    owner: str = option(key="name")
    colour: str = option("red", choices=("red", "blue"))
    speed: float = option(1.5, above=0, high=10)
    horses: int | None = option(None, low=1, high=4)
    loads: tuple[int, ...] = option((), low=0, high=9)
    notes: Mapping[str, Any] = field(default_factory=dict)


def cart(**keys: object) -> Cart:
    return parse(Cart, {"name": "Anna", **keys}, "cart.toml")


def test_keys_of_groups_stand_beside_the_others_and_come_back() -> None:
    found = cart(spokes=6, speed=2, horses=3, loads=[1, 2], notes={"a": 1})
    assert found == Cart(Wheel(6), "Anna", "red", 2.0, 3, (1, 2), {"a": 1})
    assert type(found.speed) is float
    assert to_flat(found)["spokes"] == 6
    assert list(to_flat(found)) == list(keys_of(Cart)) == [
        *("spokes", "wide", "name", "colour", "speed", "horses", "loads", "notes")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"spoke": 6}, "unknown key 'spoke' (did you mean 'spokes'?); known are colour, horses, "
         "loads, name, notes, speed, spokes, wide"),
        ({"owner": "Ben"}, "unknown key 'owner'; known are colour, horses, loads, name, notes, "
         "speed, spokes, wide"),
        ({"spokes": 7}, "spokes: found 7, expected an even number"),
        ({"spokes": 100}, "spokes: found 100, expected at least 1 and at most 99"),
        ({"spokes": True}, "spokes: found True (bool), expected a int"),
        ({"wide": 1}, "wide: found 1 (int), expected a bool"),
        ({"colour": "green"}, "colour: found 'green', expected one of ['red', 'blue']"),
        ({"speed": 0}, "speed: found 0.0, expected above 0 and at most 10"),
        ({"speed": 10**400}, f"speed: found {10**400} (int), expected a float"),
        ({"speed": float("nan")}, "speed: found nan, expected above 0 and at most 10"),
        ({"horses": 0}, "horses: found 0, expected at least 1 and at most 4"),
        ({"horses": "two"}, "horses: found 'two' (str), expected a int"),
        ({"loads": 3}, "loads: found 3, expected a list of different ints"),
        ({"loads": [1, 1]}, "loads: found [1, 1], expected a list of different ints"),
        ({"loads": [[1]]}, "loads: found [[1]], expected a list of different ints"),
        ({"loads": [True]}, "loads: found [True], expected a list of different ints"),
        ({"loads": [1, 10]}, "loads: found 10, expected at least 0 and at most 9"),
        ({"notes": 3}, "notes: found 3 (int), expected a table"),
    ],
)  # fmt: skip
def test_an_error_names_source_key_value_and_expectation(
    keys: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError) as error:
        cart(**keys)
    assert str(error.value) == f"cart.toml: {message}"


@pytest.mark.parametrize("content", [b"a = " + b"[" * 10_000, b"\xff", b"a = " + b"9" * 5000])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "odd.toml").write_bytes(content)
    with pytest.raises(UserError, match=r"odd\.toml: not TOML"):
        read_toml(tmp_path / "odd.toml")


def test_a_key_without_a_default_must_be_given() -> None:
    with pytest.raises(UserError, match=r"^cart\.toml: found no 'name', expected one$"):
        parse(Cart, {}, "cart.toml")


def test_a_field_that_the_caller_gives_is_no_key() -> None:
    assert parse(Cart, {"name": "Anna"}, "here", colour="gold").colour == "gold"
    with pytest.raises(UserError, match="unknown key 'colour'; known are horses"):
        parse(Cart, {"name": "Anna", "colour": "red"}, "here", colour="gold")


def test_a_key_of_a_run_says_what_it_affects_or_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="Cart: spokes: found no 'affects'"):
        every_key_affects(Cart)
    with pytest.raises(TypeError, match="affects: found 'results', expected one of"):
        option(1, affects="results")


def test_every_key_of_a_run_affects_one_thing() -> None:
    by_what = [RunConfig.keys_that_affect(what) for what in AFFECTS]
    assert all(by_what)
    assert sorted(key for keys in by_what for key in keys) == sorted(RunConfig.keys())
