"""Tables as the page shows them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from server_app.curves import colors_of


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

    @cached_property
    def colors(self) -> dict[str, str]:
        """The colours as CSS."""
        return colors_of(self.names)

    def cell(self, name: str) -> Cell:
        """Return the name behind a dot of its colour."""
        return Cell(name, color=self.colors[name])
