"""The pictures of a comparison: those of each setting, and one of Dice over all settings."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from results.compare.plan import BASE
from results.compare.row_results import RowResult, Spread
from results.compare.run_scores import Finished
from results.run_reader import mean
from server_app import curves
from server_app.curves import DASHES, label, plot, styled, whole_rounds

COLUMNS = 4
"""How many matrices stand side by side."""
NAME_LENGTH = 28
MARKS = ("o", "s", "^", "P")
ASIDE = 0.02
"""Distance between the points of two rows, in steps between settings, so that bars show."""


@dataclass(frozen=True)
class Looks:
    """How every row is drawn in all pictures alike."""

    rows: Sequence[str]
    """Names of the rows. After the last colour the first comes again, with another mark."""

    def color(self, row: str) -> str:
        """Return the row's colour; grey for the base model."""
        return curves.BASE_COLOR if row == BASE else curves.colors_of(self.rows)[row]

    def turn(self, row: str) -> int:
        """Return how many rows before this one have its colour."""
        return 0 if row == BASE else self.rows.index(row) // len(curves.COLORS)


Draw = Callable[[Sequence[RowResult], Looks], Figure]


def draw_all(rows: Sequence[RowResult]) -> dict[str, Figure]:
    """Return the pictures of a setting by file name, of the rows that have a finished run."""
    done = [row for row in rows if row.finished]
    trained = [row for row in done if row.row != BASE]
    looks = Looks([row.row for row in rows if row.row != BASE])
    drawings: dict[str, tuple[Draw, Sequence[RowResult]]] = {
        "in-client-dice": (in_client, done),
        "cross-client": (matrices, done),
        "dice-by-bytes": (dice_by_bytes, trained),
        "validation": (validation, [row for row in trained if _curve(row)]),
        "bytes-a-round": (bytes_a_round, trained),
    }
    with styled():
        return {name: draw(chosen, looks) for name, (draw, chosen) in drawings.items() if chosen}


def in_client(rows: Sequence[RowResult], looks: Looks) -> Figure:
    """Draw the mean in-client Dice of every seed as a point, and the mean over seeds."""
    figure, axes = _rows_figure(rows)
    for place, row in enumerate(rows):
        values = list(row.in_client_by_seed.values())
        color = looks.color(row.row)
        axes.plot(values, [place] * len(values), "o", ms=5, alpha=0.55, mew=0, color=color)
        middle = row.in_client["mean"].mean
        axes.plot([middle], [place], "D", ms=8, mfc="white", mew=1.8, color=color)
    axes.set(title="In-client Dice: a point a seed, a diamond the mean", xlabel="Dice")
    axes.grid(visible=False, axis="y")
    return figure


def dice_by_bytes(rows: Sequence[RowResult], looks: Looks) -> Figure:
    """Draw in-client Dice against the run's payload; a row without payload is a dashed line."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        color, dice = looks.color(row.row), row.in_client["mean"].mean
        mark = MARKS[looks.turn(row.row) % len(MARKS)]
        if row.in_all > 0:
            mib = row.in_all / 2**20
            axes.plot([mib], [dice], mark, ms=8, color=color, label=label(row.row, NAME_LENGTH))
        else:
            text = f"{label(row.row, NAME_LENGTH)} (sends nothing)"
            axes.axhline(dice, color=color, ls="--", lw=1.2, label=text)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(title="In-client Dice and traffic", xlabel="payload of the run, MiB", ylabel="Dice")
    figure.legend(loc="outside right upper")
    return figure


def validation(rows: Sequence[RowResult], looks: Looks) -> Figure:
    """Draw the sites' mean validation Dice over the rounds, mean over seeds."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        dashes = DASHES[looks.turn(row.row) % len(DASHES)]
        look = {"color": looks.color(row.row), "ls": dashes, "label": label(row.row, NAME_LENGTH)}
        plot(axes, _curve(row), marker="o", ms=3, **look)
    whole_rounds(axes)
    axes.set(title="Validation Dice, mean of the sites", ylabel="Dice")
    figure.legend(loc="outside right upper")
    return figure


def bytes_a_round(rows: Sequence[RowResult], _: Looks) -> Figure:
    """Draw the payload of a round from and to all sites."""
    figure, axes = _rows_figure(rows)
    places = np.arange(len(rows))
    for shift, color, text, values in (
        (-0.19, curves.UP_COLOR, "from the sites", [row.up for row in rows]),
        (0.19, curves.DOWN_COLOR, "to the sites", [row.down for row in rows]),
    ):
        mib = [value / 2**20 for value in values]
        axes.barh(places + shift, mib, height=0.36, color=color, label=text)
        for y, value in zip(places + shift, mib, strict=True):
            axes.annotate(f" {value:.3g}", (value, y), va="center", fontsize=8)
    axes.margins(x=0.12)
    axes.set(title="Payload of a round, all sites", xlabel="MiB")
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def matrices(rows: Sequence[RowResult], _: Looks) -> Figure:
    """Draw for every row the mean Dice of its models at every site."""
    tables = [(row, *_matrix(list(row.finished.values()))) for row in rows]
    across = min(COLUMNS, len(tables))
    down = math.ceil(len(tables) / across)
    sites = max(len(columns) for _, _, columns, _ in tables)
    high = max(len(names) for _, names, _, _ in tables)
    size = (across * (1.4 + 0.75 * sites), down * (1.1 + 0.42 * high))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(down, across, squeeze=False)
    known = [v for _, _, _, values in tables for v in chain(*values) if not math.isnan(v)]
    low, top = (min(known), max(known)) if known else (0.0, 1.0)
    for axes in panels.flat[len(tables) :]:
        axes.set_axis_off()
    for axes, (row, names, columns, values) in zip(panels.flat, tables, strict=False):
        _heat(axes, np.array(values), low, max(top, low + 1e-3))
        axes.set_title(label(row.row, NAME_LENGTH))
        axes.set_xticks(range(len(columns)), [label(name) for name in columns])
        axes.set_yticks(range(len(names)), [label(name) for name in names])
    figure.supxlabel("patients of")
    figure.supylabel("model of")
    return figure


def across_settings(rows: Sequence[RowResult], settings: Sequence[str]) -> Figure:
    """Draw every row's in-client and cross-client Dice over the settings.

    ``rows`` are those of all ``settings``, the base model's among them. Bars are the standard
    deviation over seeds.
    """
    names = list(dict.fromkeys(row.row for row in rows))
    looks = Looks([name for name in names if name != BASE])
    with styled():
        figure = Figure(figsize=(10, 4.8), layout="constrained")
        home, elsewhere = figure.subplots(1, 2, sharey=True)
        for place, name in enumerate(names):
            own = {row.setting: row for row in rows if row.row == name and row.finished}
            aside = ASIDE * (place - (len(names) - 1) / 2)
            _line(home, looks, name, settings, aside, own, lambda row: row.in_client["mean"])
            _line(elsewhere, looks, name, settings, aside, own, lambda row: row.cross_client)
        home.set(title="On a site's own patients", ylabel="Dice")
        elsewhere.set(title="On the other sites' patients")
        for axes in (home, elsewhere):
            axes.set_xticks(
                range(len(settings)), [fill(label(s, NAME_LENGTH), 12) for s in settings]
            )
        figure.legend(*home.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _line(
    axes: Axes,
    looks: Looks,
    name: str,
    settings: Sequence[str],
    aside: float,
    rows: Mapping[str, RowResult],
    value: Callable[[RowResult], Spread],
) -> None:
    """Draw one row over the settings in which it has a finished run."""
    there = [(place, value(rows[name])) for place, name in enumerate(settings) if name in rows]
    axes.errorbar(
        [place + aside for place, _ in there],
        [spread.mean for _, spread in there],
        yerr=[spread.sd for _, spread in there],  # NaN, of a single seed, draws no bar
        color=looks.color(name),
        ls=DASHES[looks.turn(name) % len(DASHES)],
        marker="o", ms=4, lw=1.4, capsize=2, label=label(name, NAME_LENGTH),
    )  # fmt: skip


def _heat(axes: Axes, values: np.ndarray, low: float, top: float) -> None:
    """Draw a matrix with its numbers in the cells."""
    axes.imshow(values, cmap="viridis", vmin=low, vmax=top, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        dark = value < low + 0.6 * (top - low)
        text = "–" if math.isnan(value) else f"{value:.2f}"
        axes.text(x, y, text, ha="center", va="center", fontsize=9, color="w" if dark else "k")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _matrix(runs: Sequence[Finished]) -> tuple[list[str], list[str], list[list[float]]]:
    """Return models, sites and mean Dice over seeds; NaN where a seed has no such model."""
    sites = sorted({site for run in runs for site in run.sites})
    by_run = [(run.sites, run.matrix()) for run in runs]
    names = list(dict.fromkeys(name for _, rows in by_run for name in rows))
    values = [
        [
            mean(rows[name][at.index(site)] for at, rows in by_run if name in rows and site in at)
            for site in sites
        ]
        for name in names
    ]
    return names, sites, values


def _curve(row: RowResult) -> list[tuple[int, float]]:
    """Return (round, validation Dice over seeds) for rounds that every finished seed has."""
    seeds = [dict(run.validation()) for run in row.finished.values()]
    rounds = set.intersection(*map(set, seeds)) if seeds else set()
    return [(t, mean(seed[t] for seed in seeds)) for t in sorted(rounds)]


def _rows_figure(rows: Sequence[RowResult]) -> tuple[Figure, Axes]:
    """Return a figure with a line for every row, the first one on top."""
    figure = Figure(figsize=(8, 1.3 + 0.38 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(rows)), [label(row.row, NAME_LENGTH) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    return figure, axes
