"""The curves of a run over its rounds, for ``rounds.png`` and for the report.

A ``paint_`` function draws one panel and labels its curves; its caller places the legend.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.files import replace_file
from common.text import clean
from server_app.history import Line, Points, penalised, series, sites_of, total

COLORS = (
    "#0b6e99", "#c8551b", "#2f855a", "#8a4f9e", "#b58900", "#c2417c", "#4a5fc1", "#6b6b6b",
)  # fmt: skip
BASE_COLOR = "#9aa1ab"
DASHES = ("-", "--", "-.", ":")
"""Line styles for one panel, so that curves with equal values do not hide each other."""
UP_COLOR, DOWN_COLOR = "#3d6480", "#a9bccb"
"""Colours of the payload from the sites and to the sites."""
INK, FAINT = "#2b2f36", "#d9dde3"
FONT_PX = 12.5
DPI = 120
STYLE: dict[str, Any] = {
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
"""Most letters of a site's name in a figure."""


@contextmanager
def styled(**more: object) -> Iterator[None]:
    """Set the style of all figures; letters that matplotlib's font lacks become boxes."""
    style: dict[Any, Any] = {**STYLE, **more}
    with mpl.rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def colors_of(names: Sequence[str]) -> dict[str, str]:
    """Return a colour for every name; more names than colours share colours."""
    return {name: COLORS[place % len(COLORS)] for place, name in enumerate(names)}


def label(name: str, length: int = NAME_LENGTH) -> str:
    """Return a name in printable letters, cut to a length."""
    plain = clean(name, length)
    return f" {plain}" if plain.startswith("_") else plain  # matplotlib would hide it


def whole_rounds(axes: Axes) -> None:
    """Label the x axis with whole rounds."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
    axes.set_xlabel("round")


def plot(axes: Axes, points: Points, **style: Any) -> None:
    """Draw points, or the line through them, with matplotlib's keywords for ``Axes.plot``."""
    axes.plot([t for t, _ in points], [value for _, value in points], **style)


def paint_validation(axes: Axes, history: Sequence[Line], colors: Mapping[str, str]) -> None:
    """Draw each site's validation Dice of the first merge, and mark its penalised rounds.

    Line 0 of the history is the base model's validation; ``colors`` has the colour of every site.
    """
    alone = damped = False
    for site, color in colors.items():
        values, own = series(history, site, "validation"), series(history, site, "local")
        rounds = penalised(history, site)
        marked = [(t, value) for t, value in values if t in rounds]
        plot(axes, values, color=color, marker="o", label=label(site))
        plot(axes, own, color=color, ls=":", lw=1.2)
        plot(axes, marked, color=color, marker="v", ms=11, mfc="none", ls="none", mew=1.5)
        alone, damped = alone or bool(own), damped or bool(rounds)
    if alone:
        axes.plot([], [], color=BASE_COLOR, ls=":", lw=1.2, label="own adapter")
    if damped:
        axes.plot([], [], "v", ms=9, mfc="none", color=BASE_COLOR, label="penalised")
    axes.set_title("Mean validation Dice of the first merge")


def paint_penalties(axes: Axes, history: Sequence[Line], colors: Mapping[str, str]) -> None:
    """Draw the sites' penalties in the re-merge as rings, and 1 − λ_t as a line."""
    damped = [(line["round"], 1 - line["lambda"]) for line in history if line["round"] > 0]
    plot(axes, damped, color="#555", ls=":", label="1 − λ")
    for place, (site, color) in enumerate(colors.items()):
        ring = 4 + 3.2 * min(place, 3)  # equal penalties become rings within rings
        penalties = series(history, site, "penalty")
        plot(axes, penalties, color=color, marker="o", ms=ring, mfc="none", ls="none", mew=1.4)
    axes.set_title("Penalty in the re-merge")


def paint_payload(axes: Axes, history: Sequence[Line]) -> None:
    """Draw the payload of every round in MiB, as bars from the sites on bars to the sites."""
    lines = [line for line in history if line["round"] > 0]
    rounds, bottom = [line["round"] for line in lines], np.zeros(len(lines))
    for key, text, color in (
        ("bytes_down", "to the sites", DOWN_COLOR),
        ("bytes_up", "from the sites", UP_COLOR),
    ):
        mib = np.array([total(line, key) for line in lines]) / 2**20
        axes.bar(rounds, mib, bottom=bottom, color=color, label=text, width=0.75)
        bottom = bottom + mib
    axes.grid(visible=False, axis="x")
    axes.set_title("Payload of a round, MiB")


def plot_rounds(history: Sequence[Line], path: Path) -> None:
    """Draw the rounds so far into the PNG ``path``."""
    colors = colors_of(sites_of(history))
    with styled():
        figure = Figure(figsize=(9, 8), layout="constrained")
        panels = figure.subplots(3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1.4, 1.4)})
        paint_validation(panels[0], history, colors)
        paint_penalties(panels[1], history, colors)
        paint_payload(panels[2], history)
        whole_rounds(panels[2])
        panels[2].set_xlabel("server round (0: base model)")
        figure.legend(loc="outside right upper")
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    with styled(), replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
