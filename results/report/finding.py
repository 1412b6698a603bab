"""What a finding is, and how its numbers are written."""

from collections.abc import Iterable
from dataclasses import dataclass

LEAST_CHANGE = 0.001
"""Differences in mean Dice up to this count as none: reruns on other machines differ as much."""


@dataclass(frozen=True)
class Finding:
    """A known signature of trouble that a run shows.

    Attributes
    ----------
    title
        What it is, in a sentence.
    evidence
        The numbers that show it.
    advice
        What to try.
    """

    title: str
    evidence: str
    advice: str


def listed(parts: Iterable[object], most: int = 12) -> str:
    """Return parts as ``a, b and c``, the rest of a long list counted."""
    texts = [str(part) for part in parts]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def rounds_text(rounds: Iterable[int]) -> str:
    """Return ``round 3``, ``rounds 3, 4 and 7``."""
    numbers = sorted(set(rounds))
    return f"round{'s' if len(numbers) != 1 else ''} {listed(numbers)}"
