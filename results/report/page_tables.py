"""Tables of the page, and the colours of its sites and runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from server_app.curves import colors_of


@dataclass(frozen=True)
class Cell:
    """A table cell."""

    text: str
    color: str = ""
    """CSS colour of a dot before the text; empty for no dot."""
    shade: float = 0.0
    """How strongly the cell is tinted, from 0 to 1."""
    strong: bool = False
    """Whether the text is bold."""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; the others hold numbers, or words if ``words``."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    words: bool = False
    folded: bool = False
    """Whether the page shows it closed, to be opened by a click."""


def row(*cells: str | Cell) -> list[Cell]:
    """Return the cells, each text as a plain cell."""
    return [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]


@dataclass(frozen=True)
class Palette:
    """The colours of sites, or of runs, by name."""

    names: Sequence[str]

    @cached_property
    def colors(self) -> dict[str, str]:
        """The CSS colour of each name."""
        return colors_of(self.names)

    def cell(self, name: str) -> Cell:
        """Return a cell with the name after a dot of its colour."""
        return Cell(name, color=self.colors[name])
