"""The picture of a comparison with several settings: how Dice moves from one to the next."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from results.compare.plan import BASE
from results.compare.row_results import RowResult, Spread
from results.compare.setting_figures import NAME_LENGTH, Looks
from server_app.curves import DASHES, label, styled

ASIDE = 0.02
"""Between the points of rows, in steps from setting to setting, so that their bars can be seen."""


def across_settings(rows: Sequence[RowResult], settings: Sequence[str]) -> Figure:
    """Draw every row's Dice at home and elsewhere over the settings, a bar a standard deviation.

    Parameters
    ----------
    rows
        Of all settings; the base model's among them.
    settings
        Names in their order.
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
    """Draw a row of the comparison over the settings in which it has a finished run."""
    there = [(place, value(rows[name])) for place, name in enumerate(settings) if name in rows]
    axes.errorbar(
        [place + aside for place, _ in there],
        [spread.mean for _, spread in there],
        yerr=[spread.sd for _, spread in there],  # NaN, of a single seed, draws no bar
        color=looks.color(name),
        ls=DASHES[looks.turn(name) % len(DASHES)],
        marker="o", ms=4, lw=1.4, capsize=2, label=label(name, NAME_LENGTH),
    )  # fmt: skip
