"""Draws figures as SVG elements for the page; at natural size one SVG unit is one pixel."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from server_app.curves import styled

PANEL_PX = 330
"""Width of a small panel: three lie side by side on a desk, one fits a telephone."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the page."""

    svg: Markup
    """The ``<svg>`` element."""
    width: int
    """Natural width in pixels."""
    narrow: "Drawing | None" = None
    """The same figure for narrow screens, where this one is too wide for them."""


def draw(name: str, width: int, height: int, paint: Callable[[Figure], None]) -> Drawing:
    """Return what ``paint`` draws into an empty figure of ``width`` × ``height`` pixels.

    ``name`` says what the figure shows, for readers who cannot see it. It must be unique in the
    page, as the ids in the SVG derive from it.
    """
    buffer = io.StringIO()
    # text stays text, in the page's font
    with styled(**{"svg.fonttype": "none", "svg.hashsalt": f"{name} {width}"}):
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Drawing(_inline(buffer.getvalue(), name), width)


def _inline(text: str, name: str) -> Markup:
    """Remove what only a separate file needs: prolog, metadata, size, names of namespaces."""
    element = text[text.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    opening, rest = element.split(">", 1)
    opening = re.sub(r' (xmlns(:xlink)?|width|height|version)="[^"]*"', "", opening)
    label = Markup(' role="img" aria-label="{}">').format(name)
    return Markup(opening) + label + Markup(rest)  # noqa: S704, matplotlib escapes texts
