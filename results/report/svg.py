"""Figures as SVG inside the page: at their natural size a unit is a pixel."""

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
    # text stays text, in the page's font
    with styled(**{"svg.fonttype": "none", "svg.hashsalt": f"{name} {width}"}):
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
