"""Figures as SVG inside the page: at their natural size a unit is a pixel."""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

FONT_PX = 12.5
PANEL_PX = 330
"""Width of a small panel: three lie side by side on a desk, one fits a telephone."""
INK, FAINT = "#2b2f36", "#d9dde3"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,  # a $ in a site's name is no formula
    "font.size": FONT_PX,
    "axes.titlesize": FONT_PX,
    "axes.labelsize": FONT_PX,
    "xtick.labelsize": FONT_PX,
    "ytick.labelsize": FONT_PX,
    "legend.fontsize": FONT_PX,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a919c",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
}
NAME_LENGTH = 14


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes
    ----------
    svg
        The ``<svg>`` element.
    width
        Natural width in pixels.
    narrow
        Another drawing of the same for narrow screens, where a wide one has one.
    """

    svg: Markup
    width: int
    narrow: "Drawing | None" = None


def draw(name: str, width: int, height: int, paint: Callable[[Figure], None]) -> Drawing:
    """Draw a figure.

    Parameters
    ----------
    name
        What it shows, for those who cannot see it; unique in the page, as it seeds the ids.
    width, height
        Natural size in pixels.
    paint
        Draws into the empty figure.
    """
    buffer = io.StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"{name} {width}"}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that matplotlib's font lacks
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Drawing(_inline(buffer.getvalue(), name), width)


def _inline(text: str, name: str) -> Markup:
    """Cut what only a file of its own needs: prolog, metadata, size, names of namespaces."""
    element = text[text.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    opening, rest = element.split(">", 1)
    opening = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", opening)
    label = Markup(' role="img" aria-label="{}">').format(name)
    return Markup(opening) + label + Markup(rest)  # noqa: S704, matplotlib escapes texts


def label(name: str) -> str:
    """Return a site's name short enough for an axis."""
    plain = "".join(letter if letter.isprintable() else " " for letter in name)
    return plain if len(plain) <= NAME_LENGTH else plain[: NAME_LENGTH - 1] + "…"


def whole_rounds(axes: mpl.axes.Axes) -> None:
    """Let the x axis count rounds."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("round")
