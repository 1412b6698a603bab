"""Site by site: what each one ends with, and what the rating took of its updates."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from results.compare.results import RowResult, Spread
from results.compare.scores import COLUMNS, mean, means


@dataclass(frozen=True)
class SiteResult:
    """One site in a row of the comparison.

    Attributes
    ----------
    dice
        Of its own model on its own test patients, by structure, over seeds.
    last_local
        Mean Dice there of what it sent last, before any merge, over seeds.
    penalised
        Share of its rounds in which it was damped, mean over seeds; NaN without a rating.
    removed
        Part of its share that the re-merge took in these rounds, mean over all of them.
    """

    dice: Mapping[str, Spread]
    last_local: Spread
    penalised: float
    removed: float


def site_results(row: RowResult) -> dict[str, SiteResult]:
    """Return the results of every site, by name."""
    sites = sorted({site for finished in row.finished.values() for site in finished.sites})
    return {site: _site_result(row, site) for site in sites}


def _site_result(row: RowResult, site: str) -> SiteResult:
    runs = row.finished.values()
    own = [means(finished.in_client().get(site, [])) for finished in runs]
    last = [means(finished.last_local(site))["mean"] for finished in runs]
    rates, removed = [], []
    for finished in runs:
        entries = [] if finished.run is None else finished.run.rounds
        rounds = [line["sites"].get(site, {}) for line in entries]
        penalties = [entry["penalty"] for entry in rounds if "penalty" in entry]
        damped = [entry for entry in rounds if entry.get("penalty", 1.0) < 1.0]
        rated = penalties and finished.job.config.method.rating != "none"
        rates.append(len(damped) / len(penalties) if rated else math.nan)
        removed += [entry["removed"] for entry in damped if "removed" in entry]
    dice = {column: Spread.of([found[column] for found in own]) for column in COLUMNS}
    return SiteResult(dice, Spread.of(last), mean(rates), mean(removed))


def site_rows(rows: Sequence[RowResult]) -> list[list[str]]:
    """Return the cells of the table, a line a method and site, with its head first."""
    table = [["method", "site", *COLUMNS, "last local", "rounds penalised", "of its share"]]
    for row in rows:
        for site, found in site_results(row).items():
            table.append(
                [
                    row.row,
                    site,
                    *(found.dice[column].text() for column in COLUMNS),
                    found.last_local.text(),
                    _percent(found.penalised),
                    _percent(found.removed),
                ]
            )
    return table


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"
