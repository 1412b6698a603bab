"""The outcome of a command that a test ran in this process."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Ended:
    """How a command ended."""

    status: int
    out: str
    error: str


Run = Callable[..., Ended]
