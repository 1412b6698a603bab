"""Test scores by site and structure: tables, distributions over patients, cross-client matrix."""

import math
from collections.abc import Callable

from common.text import count, number, signed
from results.report.figures import Strip, distribution
from results.report.page_tables import Cell, Palette, Table, row
from results.report.patients import Patients
from results.report.svg import Drawing
from results.run_reader import COLUMNS, RunFiles, mean
from server_app.curves import label

METRICS = {"dice": ("Dice", 3, 1), "hd95_mm": ("HD95, mm", 1, -1)}
"""The title and digits of each metric, and 1 where more is better or −1 where less is."""
Lookup = Callable[[str, str, str, str], float]
"""Returns a score, NaN for none, of a site, a model (base, result), a metric and a structure."""
TOLERANCE = 0.005
"""Dice by which sites' reports may differ from scores computed here, due to half precision."""


def lookup(run: RunFiles, patients: Patients | None) -> Lookup:
    """Return a lookup in the sites' reports, or in scores computed here while there are none."""

    def find(site: str, model: str, metric: str, column: str) -> float:
        told = run.score(site, "test" if model == "result" else "base", metric, column)
        if math.isnan(told) and run.summary is None and patients:
            return patients.score(site, model, metric, column)
        return told

    return find


def tables(run: RunFiles, palette: Palette, patients: Patients | None) -> list[Table]:
    """Return one table for each metric: base → result by structure, and who did better."""
    return [_table(run, metric, palette, patients) for metric in METRICS]


def _table(run: RunFiles, metric: str, palette: Palette, patients: Patients | None) -> Table:
    title, digits, better = METRICS[metric]
    find = lookup(run, patients)
    rows = []
    for site in run.sites:
        values = [(find(site, "base", metric, c), find(site, "result", metric, c)) for c in COLUMNS]
        before, after = values[-1]
        cells: list[str | Cell] = [palette.cell(site)]
        cells += [f"{number(b, digits)} → {number(r, digits)}" for b, r in values]
        cells.append(Cell(signed(after - before, digits), strong=True))
        if patients:
            pairs = patients.pairs(site, metric, "mean")
            up = sum(better * (after - before) > 0 for _, before, after in pairs)
            cells.append(f"{up} of {len(pairs)}")
        rows.append(row(*cells))
    head = ["site", *COLUMNS, "change", *(["patients better"] if patients else [])]
    return Table(f"{title}, base → result", head, rows)


def figures(
    run: RunFiles, palette: Palette, patients: Patients | None, anchor: str
) -> list[Drawing]:
    """Return one panel for each metric and structure."""
    find = lookup(run, patients)
    sites = [
        site
        for site in run.sites
        if not math.isnan(find(site, "result", "dice", "mean"))
        or (patients and patients.pairs(site, "dice", "mean"))
    ]
    if not sites:
        return []
    drawings = []
    for metric, (title, *_) in METRICS.items():
        for column in COLUMNS[:-1]:
            strips = []
            for site in sites:
                pairs = patients.pairs(site, metric, column) if patients else []
                means = (find(site, model, metric, column) for model in ("base", "result"))
                strips.append(Strip(site, [(b, r) for _, b, r in pairs], *means))
            name = f"{anchor} {title} of {column}, base and result by site"
            drawings.append(distribution(name, f"{column}: {title}", strips, palette))
    return drawings


def matrix(run: RunFiles, patients: Patients, palette: Palette) -> Table | None:
    """Return the cross-client matrix: test Dice of adapters (rows) on sites' patients (columns)."""
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
        "the merge. Bold: on the own site's patients. In each column darker is better.",
    )


def disagreement(run: RunFiles, patients: Patients) -> str:
    """Return where scores computed here differ most from the sites' reports; empty if nowhere."""
    worst = max(
        (
            (abs(patients.score(site, model, "dice", "mean") - told), site, model)
            for site in run.sites
            for model, key in (("base", "base"), ("result", "test"))
            if not math.isnan(told := run.score(site, key, "dice", "mean"))
            and not math.isnan(patients.score(site, model, "dice", "mean"))
        ),
        default=(0.0, "", ""),
    )
    if worst[0] <= TOLERANCE:
        return ""
    return (
        f"The scores of single patients do not fit the sites' own reports: at {worst[1]} the mean "
        f"Dice of the {worst[2]} differs by {worst[0]:.3f}. The data, the split or the base here "
        "may differ from those of the run"
    )


def what_is_known(patients: Patients | None, missing: str) -> str:
    """Return a sentence on what the scores rest on."""
    if patients is None:
        return (
            f"Only the sites' own means are known ({missing}). A mean hides single patients: "
            "all of them may be a little better, or one may fail among many good ones. Run the "
            "report where the images are, with --data and --base, to see them."
        )
    n = len({(case.site, case.patient) for case in patients.cases})
    return (
        f"Each point is one of {count(n, 'test patient')} (the mean of the ED and ES frames), "
        "grey under the base model, coloured under the result; lines join the two. Diamonds are "
        "the sites' means, bars the quartiles of sites with at least five patients."
    )
