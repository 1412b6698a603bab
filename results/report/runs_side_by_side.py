"""The part of the page that shows several runs side by side."""

import math
from collections.abc import Mapping, Sequence

from common.config import RunConfig
from common.text import duration, number, size
from results.report.figures import side_by_side
from results.report.page_tables import Cell, Palette, Table, row
from results.report.signatures import LEAST_CHANGE
from results.report.svg import Drawing
from results.run_reader import RunFiles


def run_names(runs: list[RunFiles]) -> list[str]:
    """Return a unique name for every run: its folder's, with as many parents as that takes."""
    paths = [run.path for run in runs]
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [
        f"{path.name} ({number})" for number, path in enumerate(paths, 1)
    ]  # the same run is given twice


def differing_keys(runs: Mapping[str, RunFiles]) -> Table:
    """Return the keys in which the runs differ, without those that name a run's own folders."""
    own = RunConfig.keys_that_affect("place")
    flats = [run.config.to_flat() for run in runs.values()]
    rows = [
        row(key, *(str(flat[key]) for flat in flats))
        for key in flats[0]
        if key not in own and len({flat[key] for flat in flats}) > 1
    ]
    note = "" if rows else "Nothing: the runs have the same configuration."
    return Table("What differs in the configuration", ("key", *runs), rows, note, words=True)


def scores_table(runs: Mapping[str, RunFiles]) -> Table:
    """Return every run's test scores by site, traffic and time, with the best Dice in bold."""
    sites = sorted({site for run in runs.values() for site in run.sites})
    rows = []
    for site in sites:
        for metric, title, digits in (("dice", "Dice", 4), ("hd95_mm", "HD95, mm", 1)):
            values = [run.score(site, "test", metric, "mean") for run in runs.values()]
            best = _clear_best(values) if metric == "dice" else math.nan
            cells = (Cell(number(value, digits), strong=value == best) for value in values)
            rows.append(row(f"{site}, {title}", *cells))
    rows.append(row("payload", *(size(r.traffic["up"] + r.traffic["down"]) for r in runs.values())))
    rows.append(row("time", *(duration(sum(run.seconds().values())) for run in runs.values())))
    rows.append(row("rounds", *(str(len(run.rounds)) for run in runs.values())))
    return Table(
        "Results on test patients",
        ("", *runs),
        rows,
        note=f"Bold: a Dice ahead of all others by more than {LEAST_CHANGE:g}. One run a setting "
        "shows no spread: small differences may be chance.",
    )


def _clear_best(values: Sequence[float]) -> float:
    """Return the highest value where it is clearly ahead of the next, otherwise NaN."""
    known = sorted(value for value in values if not math.isnan(value))
    return known[-1] if len(known) > 1 and known[-1] - known[-2] > LEAST_CHANGE else math.nan


def curves(runs: Mapping[str, RunFiles]) -> list[Drawing]:
    """Return one panel for each site, with its validation Dice in all runs."""
    palette = Palette(list(runs))
    sites = sorted({site for run in runs.values() for site in run.sites})
    return [
        side_by_side(
            site,
            {name: run.series(site, "validation") for name, run in runs.items()},
            palette,
            f"validation Dice of {site} in all runs",
        )
        for site in sites
    ]
