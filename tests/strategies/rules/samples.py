"""Sites, their replies, and random masses and Dice, for the tests of the rules."""

import math
import random
from collections.abc import Mapping
from typing import Any

from common.adapter import Adapter
from common.config import RunConfig
from common.messages import Update, Validation
from common.options import Value
from strategies.rules import rule_of
from strategies.rules.base import Rule
from tests.strategies.fakes import random_adapter

SITES = ("GE", "Philips", "Siemens")
SHARE = dict.fromkeys(SITES, 1 / 3)
OWN: Adapter = random_adapter(0, 2)


def updates(start: float = 0.5, **own: float) -> dict[str, Update]:
    """Return a training reply of every site; ``own`` is the Dice of single sites' adapters."""
    dice = {**dict.fromkeys(SITES, 0.5), **own}
    return {site: Update(OWN, 10, 1.0, 0.5, start, dice[site]) for site in SITES}


def rated(*dice: tuple[float, ...]) -> dict[str, Validation]:
    """Return a validation reply of every site, on four volumes, from its Dice of every merge."""
    return {s: Validation(d[0], 4, d[1:]) for s, d in zip(SITES, dice, strict=True)}


def rule(rating: str, memory: dict[str, Any] | None = None, **keys: Value) -> Rule:
    """Return a rule; underscores in the names of keys stand for hyphens."""
    flat = {"rating": rating, **{key.replace("_", "-"): value for key, value in keys.items()}}
    return rule_of(RunConfig.from_flat(flat), {} if memory is None else memory)


def numbers(draw: random.Random, sites: str) -> dict[str, float]:
    """Return a random number in [0, 1) for every site."""
    return {site: draw.random() for site in sites}


def point(draw: random.Random, sites: str) -> dict[str, float]:
    """Return random masses that sum to one, some of them 0."""
    raw = {site: draw.choice([0.0, draw.random()]) for site in sites}
    total = sum(raw.values())
    return {s: w / total for s, w in raw.items()} if total else dict.fromkeys(sites, 1 / len(sites))


def on_simplex(masses: Mapping[str, float]) -> bool:
    """Return whether masses lie in [0, 1] and sum to one."""
    inside = all(0 <= w <= 1 + 1e-12 for w in masses.values())
    return inside and math.isclose(math.fsum(masses.values()), 1.0, abs_tol=1e-12)


def backwards(values: Mapping[str, float]) -> dict[str, float]:
    """Return the values with the sites in the opposite order."""
    return {site: values[site] for site in reversed(list(values))}
