"""How a command that was run in this process ended."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    error: str


Run = Callable[..., Ended]
