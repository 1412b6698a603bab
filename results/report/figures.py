"""The figures of a run: distributions over patients, and what happened over the rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.report.svg import PANEL_PX, Drawing, draw, label, whole_rounds
from results.report.tables import Palette
from results.run_files import Points, Run

BASE_COLOR = "#9aa1ab"
WIDE_PX = 1020
MOST_IN_LEGEND = 10
LEAST_FOR_BOX = 5
"""Patients from which on quartiles say something."""
DASHES = ("-", "--", "-.", ":")
"""Of runs in one panel, so that equal curves do not hide each other."""
Pairs = Sequence[tuple[float, float]]
"""(base, result) of every patient."""


@dataclass(frozen=True)
class Strip:
    """A row of the distribution figure: a site's patients and its mean."""

    site: str
    pairs: Pairs
    base: float
    result: float


def distribution(name: str, title: str, strips: Sequence[Strip], palette: Palette) -> Drawing:
    """Draw base (upper, grey) and result (lower, coloured) of every site, patients joined."""

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


def validation(run: Run, palette: Palette, name: str) -> Drawing:
    """Draw P over the rounds, penalised rounds marked; once wide and once narrow."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for site in run.sites:
            color = palette.colors[site]
            values = dict(run.series(site, "validation"))
            _plot(axes, list(values.items()), color=color, marker="o", label=label(site))
            _plot(axes, run.series(site, "local"), color=color, ls=":", lw=1.2)
            marked = [(t, values[t]) for t in run.penalised(site) if t in values]
            _plot(axes, marked, color=color, marker="v", ms=11, mfc="none", ls="none", mew=1.5)
        if any(run.series(site, "local") for site in run.sites):
            axes.plot([], [], color=BASE_COLOR, ls=":", lw=1.2, label="own adapter")
        if any(run.penalised(site) for site in run.sites):
            axes.plot([], [], "v", ms=9, mfc="none", color=BASE_COLOR, label="penalised")
        whole_rounds(axes)
        axes.set_title("Mean validation Dice of the first merge")
        _legend(figure, axes)

    wide, narrow = (draw(name, w, h, paint) for w, h in ((WIDE_PX, 360), (360, 330)))
    return replace(wide, narrow=narrow)


def penalties(run: Run, palette: Palette, name: str) -> Drawing:
    """Draw the sites' penalties in the re-merge, and 1 − λ."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        damped = [(line["round"], 1 - line["lambda"]) for line in run.rounds]
        _plot(axes, damped, color="#555", ls=":", label="1 − λ")
        for place, site in enumerate(run.sites):
            # sites with the same penalty are drawn as rings in rings
            ring = 4 + 3.2 * min(place, 3)
            _plot(axes, run.series(site, "penalty"), color=palette.colors[site], marker="o",
                  ms=ring, mfc="none", ls="none", mew=1.4)  # fmt: skip
        whole_rounds(axes)
        axes.set_title("Penalty in the re-merge")
        axes.legend(loc="best")

    return draw(name, PANEL_PX, 240, paint)


def losses(run: Run, palette: Palette, name: str) -> Drawing:
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


def traffic(run: Run, name: str) -> Drawing:
    """Draw the payload of every round, up on down."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        rounds = [line["round"] for line in run.rounds]
        bottom = np.zeros(len(rounds))
        for key, text, color in (
            ("bytes_down", "to the sites", "#a9bccb"),
            ("bytes_up", "from the sites", "#3d6480"),
        ):
            mib = [
                sum(entry.get(key, 0) for entry in line["sites"].values()) / 2**20
                for line in run.rounds
            ]
            axes.bar(rounds, mib, bottom=bottom, color=color, label=text, width=0.75)
            bottom = bottom + np.array(mib)
        axes.set_ylim(0, 1.4 * max([*bottom, 0.001]))
        whole_rounds(axes)
        axes.grid(visible=False, axis="x")
        axes.set_title("Payload of a round, MiB")
        axes.legend(loc="upper left", ncols=2, columnspacing=1, handlelength=1)

    return draw(name, PANEL_PX, 240, paint)


def side_by_side(site: str, series: Mapping[str, Points], palette: Palette, name: str) -> Drawing:
    """Draw one site's validation in several runs."""
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
            _plot(axes, points, color=color, ls=style, marker="o", ms=3.5, label=label(key))
        whole_rounds(axes)
        axes.set_title(title)
        if legend:
            axes.legend(loc="best")

    return draw(name, PANEL_PX, 240, paint)


def _plot(axes: Axes, points: Points, **style: object) -> None:
    axes.plot([t for t, _ in points], [value for _, value in points], **style)  # type: ignore[arg-type]


def _legend(figure: Figure, axes: Axes) -> None:
    """Put a legend of few entries under the axes; of many, the tables' dots tell the colours."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) <= MOST_IN_LEGEND:
        columns = len(labels) if figure.get_figwidth() * 72 > 2 * PANEL_PX else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, columns))
