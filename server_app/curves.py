"""``rounds.png``: validation, penalties and traffic of a run over its rounds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.files import replace_file


def plot_rounds(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the rounds so far into a PNG.

    Parameters
    ----------
    history
        Lines of ``history.jsonl``; line 0 is the base model's validation.
    path
        PNG to write.
    """
    figure = Figure(figsize=(8, 8), layout="constrained")
    dice, penalty, traffic = figure.subplots(
        3, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1.4, 1.4)}
    )
    sites = sorted({site for line in history for site in line["sites"]})
    for number, site in enumerate(sites):
        color = f"C{number}"
        entries = [(line["round"], line["sites"].get(site, {})) for line in history]
        rated = [(t, e["validation"]) for t, e in entries if e.get("validation") is not None]
        dice.plot(*_xy(rated), "o-", ms=4, color=color, label=site)
        damped = [(t, e["validation"]) for t, e in entries if e.get("penalty", 1) < 1]
        dice.plot(*_xy(damped), "v", ms=10, mfc="none", color=color)
        penalties = [(t, e["penalty"]) for t, e in entries if "penalty" in e]
        penalty.plot(*_xy(penalties), "o-", ms=4, color=color)
        total, sums = 0.0, []
        for t, entry in entries:
            total += (entry.get("bytes_up", 0) + entry.get("bytes_down", 0)) / 2**20
            sums.append((t, total))
        traffic.plot(*_xy(sums), "-", color=color)
    rounds = [line["round"] for line in history if line["round"] > 0]
    lambdas = [line["lambda"] for line in history if line["round"] > 0]
    penalty.plot(rounds, [1 - value for value in lambdas], ":", color="grey", label="1 − λ")
    dice.plot([], [], "v", ms=10, mfc="none", color="grey", label="penalised")
    dice.set(ylabel="validation Dice\nof the first merge", title="Rate-My-LoRA")
    penalty.set(ylabel="penalty in the\nre-merge")
    traffic.set(ylabel="payload, MiB\nup and down", xlabel="server round (0: base model)")
    traffic.set_ylim(bottom=0)
    traffic.xaxis.set_major_locator(MaxNLocator(integer=True))
    dice.legend(loc="lower right")
    penalty.legend(loc="lower right")
    for axes in (dice, penalty, traffic):
        axes.grid(alpha=0.3)
    with replace_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _xy(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
