"""The figures of a run: scores over patients, and curves over the rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.figure import Figure

from results.report.page_tables import Palette
from results.report.svg import PANEL_PX, Drawing, draw
from results.run_reader import RunFiles
from server_app import curves
from server_app.curves import BASE_COLOR, DASHES, label, plot, whole_rounds
from server_app.history import Points

WIDE_PX = 1020
MOST_IN_LEGEND = 10
LEAST_FOR_BOX = 5
"""Fewest patients of a site for which quartiles are drawn."""
Pairs = Sequence[tuple[float, float]]
"""(score under the base, score under the result) of every patient."""


@dataclass(frozen=True)
class Strip:
    """A row of the distribution figure: a site's patients, and its mean under base and result."""

    site: str
    pairs: Pairs
    base: float
    result: float


def distribution(name: str, title: str, strips: Sequence[Strip], palette: Palette) -> Drawing:
    """Draw base (upper, grey) and result (lower, coloured) of every site, with lines by patient."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, strip in enumerate(strips):
            color = palette.colors[strip.site]
            levels, ends = (place - 0.2, place + 0.2), np.array(strip.pairs).reshape(-1, 2)
            axes.plot((strip.base, strip.result), levels, color=color, lw=1.2, alpha=0.8, ls=":")
            for pair in ends:
                axes.plot(pair, levels, color=color, lw=0.6, alpha=0.45)
            for level, values, mean, tint in (
                (levels[0], ends[:, 0], strip.base, BASE_COLOR),
                (levels[1], ends[:, 1], strip.result, color),
            ):
                if len(values) >= LEAST_FOR_BOX:
                    low, high = np.percentile(values, (25, 75))
                    axes.plot((low, high), (level, level), lw=7, alpha=0.22, color=tint,
                              solid_capstyle="butt")  # fmt: skip
                axes.plot(values, np.full(len(values), level), "o", ms=4, color=tint, mew=0)
                axes.plot([mean], [level], "D", ms=6.5, mfc="white", mec=tint, mew=1.6)
        axes.set_yticks(range(len(strips)), [label(strip.site) for strip in strips])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(strips) - 0.45, -0.55)
        axes.grid(visible=False, axis="y")
        axes.set_title(title)

    return draw(name, PANEL_PX, 64 + 54 * len(strips), paint)


def validation(run: RunFiles, palette: Palette, name: str) -> Drawing:
    """Draw validation Dice over the rounds with penalised rounds marked, wide and narrow."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        curves.paint_validation(axes, run.history, palette.colors)
        whole_rounds(axes)
        handles, labels = axes.get_legend_handles_labels()
        if len(labels) <= MOST_IN_LEGEND:  # otherwise the dots in the tables name the colours
            columns = max(1, len(labels)) if figure.get_figwidth() * 72 > 2 * PANEL_PX else 2
            figure.legend(handles, labels, loc="outside lower center", ncols=columns)

    wide, narrow = (draw(name, w, h, paint) for w, h in ((WIDE_PX, 360), (360, 330)))
    return replace(wide, narrow=narrow)


def penalties(run: RunFiles, palette: Palette, name: str) -> Drawing:
    """Draw the sites' penalties in the re-merge, and 1 − λ."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        curves.paint_penalties(axes, run.history, palette.colors)
        whole_rounds(axes)
        axes.legend(loc="best")

    return draw(name, PANEL_PX, 240, paint)


def losses(run: RunFiles, palette: Palette, name: str) -> Drawing:
    """Draw the training loss of every site."""
    series = {site: run.series(site, "loss") for site in run.sites}
    return _panel(name, "Training loss", series, palette)


def in_and_cross(rounds: Sequence[tuple[int, float, float]], name: str) -> Drawing:
    """Draw in-client and cross-client Dice of the sites' own adapters over the rounds."""
    series = {
        "in-client": [(t, inside) for t, inside, _ in rounds],
        "cross-client": [(t, across) for t, _, across in rounds],
    }
    return _panel(name, "Own adapters, validation Dice", series, Palette(list(series)), legend=True)


def traffic(run: RunFiles, name: str) -> Drawing:
    """Draw the payload of every round, bytes up stacked on bytes down."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        curves.paint_payload(axes, run.history)
        axes.set_ylim(0, 1.4 * axes.dataLim.ymax or 0.001)
        whole_rounds(axes)
        axes.legend(loc="upper left", ncols=2, columnspacing=1, handlelength=1)

    return draw(name, PANEL_PX, 240, paint)


def side_by_side(site: str, series: Mapping[str, Points], palette: Palette, name: str) -> Drawing:
    """Draw one site's validation Dice in several runs."""
    return _panel(name, label(site), series, palette, dashed=True)


def _panel(
    name: str,
    title: str,
    series: Mapping[str, Points],
    palette: Palette,
    *,
    legend: bool = False,
    dashed: bool = False,
) -> Drawing:
    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for place, (key, points) in enumerate(series.items()):
            style = DASHES[place % len(DASHES)] if dashed else "-"
            color = palette.colors[key]
            plot(axes, points, color=color, ls=style, marker="o", ms=3.5, label=label(key))
        whole_rounds(axes)
        axes.set_title(title)
        if legend:
            axes.legend(loc="best")

    return draw(name, PANEL_PX, 240, paint)
