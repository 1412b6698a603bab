"""Tables as the page shows them, and how numbers are written in them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

COLORS = (
    "#0b6e99", "#c8551b", "#2f855a", "#8a4f9e", "#b58900", "#c2417c", "#4a5fc1", "#6b6b6b",
)  # fmt: skip
"""Of sites, in the order of their names; after the last one the first comes again."""
MINUS = "−"


@dataclass(frozen=True)
class Cell:
    """A table cell.

    Attributes
    ----------
    text
        What it says.
    color
        Of a dot before the text, as CSS; empty for none.
    shade
        How strongly the cell is tinted, 0 to 1.
    strong
        Whether the text is bold.
    """

    text: str
    color: str = ""
    shade: float = 0.0
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its first column names the row, the others hold numbers unless ``words``."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    words: bool = False
    folded: bool = False
    """Whether the reader has to open it."""


def row(*cells: str | Cell) -> list[Cell]:
    """Return cells, texts made into plain ones."""
    return [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]


@dataclass(frozen=True)
class Palette:
    """The colour of every site, or run, by name."""

    names: Sequence[str]
    colors: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(self.names)}
        object.__setattr__(self, "colors", colors)

    def cell(self, name: str) -> Cell:
        """Return the name behind a dot of its colour."""
        return Cell(name, color=self.colors[name])


def number(value: float, digits: int = 3) -> str:
    """Return a number, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Return a number with its sign, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:+.{digits}f}".replace("-", MINUS)


def change(before: float, after: float, digits: int = 3) -> str:
    """Return ``before → after``."""
    return f"{number(before, digits)} → {number(after, digits)}"


def size(n: float) -> str:
    """Return a number of bytes for people."""
    return f"{n / 2**20:.2f} MiB" if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def duration(seconds: float) -> str:
    """Return seconds for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def count(n: int, one: str, many: str = "") -> str:
    """Return ``1 patient``, ``2 patients``."""
    return f"{n} {one if n == 1 else many or one + 's'}"
