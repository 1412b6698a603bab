"""Own adapters at home and away: the cross-client matrix."""

import math

from common.text import number
from results.report.page_tables import Cell, Palette, Table, row
from results.report.patients import Patients
from results.run_reader import RunFiles, mean
from server_app.curves import label


def matrix(run: RunFiles, patients: Patients, palette: Palette) -> Table | None:
    """Return mean test Dice of every adapter (rows) on every site's patients (columns)."""
    if patients.transfer is None:
        return None
    own = patients.transfer.own
    sites = [site for site in run.sites if patients.of(site)]
    scores = {
        "base model": {s: patients.score(s, "base", "dice", "mean") for s in sites},
        **own,
        "result": {s: patients.score(s, "result", "dice", "mean") for s in sites},
    }
    best = {s: max((v[s] for v in scores.values() if s in v), default=math.nan) for s in sites}
    worst = {s: min((v[s] for v in scores.values() if s in v), default=math.nan) for s in sites}
    rows = []
    for name, values in scores.items():
        cells: list[str | Cell] = [palette.cell(name) if name in own else Cell(name)]
        for site in sites:
            value = values.get(site, math.nan)
            spread = best[site] - worst[site]
            shade = (value - worst[site]) / spread if spread > 0 else 0.0
            cells.append(Cell(number(value), shade=shade, strong=site == name))
        cells.append(number(mean(values.values())))
        rows.append(row(*cells))
    return Table(
        "Mean test Dice of each adapter (row) on each site's patients (column)",
        ("adapter of", *map(label, sites), "mean"),
        rows,
        note=f"Sites' own adapters as trained in round {patients.transfer.server_round}, before "
        "the merge. Bold: at home. The darker, the better among a column.",
    )
