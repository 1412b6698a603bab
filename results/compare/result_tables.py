"""The tables of a comparison: ``results.md``, ``results.csv`` and ``results-long.csv``."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.files import write_text
from common.labels import STRUCTURES
from common.text import NONE, csv_text, markdown_cell, markdown_table, size
from results.compare.plan import Plan
from results.compare.row_results import (
    LEAST_FOR_TEST,
    RowResult,
    SignedRank,
    patient_test,
    site_results,
)
from results.run_reader import COLUMNS

HEAD = (
    *("method", "seeds", *COLUMNS, "HD95 mm", "cross-client", "adapted"),
    *("up a round", "down a round", "in all", "p"),
)
NOTES = """\
Dice on test patients, mean ± standard deviation over seeds. LV, MYO, RV and mean are in-client:
every site's own model (its personal one if it has one, else the merged one) on its own patients;
so is HD95. Cross-client is the same models on the other sites' patients; with one merged model it
equals in-client. {adapted} Every site counts once. Bytes are the payload of all sites together,
without the base model, and without the images where data are pooled. p is from the two-sided
Wilcoxon signed-rank test against {reference} with one pair for each patient (mean over frames,
structures and seeds) if n is at least {least}; it is not corrected for the number of rows. Site by
site: last local is the adapter that the site sent last, before any merge; rounds penalised is the
part of rounds in which its penalty was below 1, and of its share is what it lost in these rounds.
"""
ADAPTED = (
    "Adapted is the site's own model after {} local epoch(s) of a fresh adapter, on its own\n"
    "patients."
)
NOT_ADAPTED = "Nothing was adapted."


def tests_against(plan: Plan, rows: Sequence[RowResult]) -> dict[tuple[str, str], SignedRank]:
    """Return the test of every row except the reference, by (setting, row)."""
    references = {r.setting: r for r in rows if r.row == plan.reference}
    return {
        (r.setting, r.row): patient_test(r, references[r.setting])
        for r in rows
        if r.row != plan.reference
    }


def markdown(
    plan: Plan,
    rows: Sequence[RowResult],
    plots: Mapping[str, Sequence[str]],
    overview: Sequence[str] = (),
) -> str:
    """Return the text of ``results.md``.

    ``plots`` has each setting's pictures, ``overview`` those of all settings together, as paths
    relative to the page.
    """
    tests = tests_against(plan, rows)
    parts = [f"# {markdown_cell(plan.path.stem)}\n", *_pictures(overview)]
    for setting in plan.settings:
        if setting:
            parts.append(f"## {markdown_cell(setting)}\n")
        own = [row for row in rows if row.setting == setting]
        cells = [_cells(row, tests.get((setting, row.row))) for row in own]
        parts.append(markdown_table(HEAD, cells, words=2) + "\n")
        gone = [f"{row.row}, seed {n}: {why}" for row in own for n, why in row.missing.items()]
        if gone:
            parts.append("Missing:\n\n" + "".join(f"- {markdown_cell(line)}\n" for line in gone))
        parts.append("Site by site:\n")
        head, *cells = site_rows(own)
        parts.append(markdown_table(head, cells, words=2) + "\n")
        parts += _pictures(plots.get(setting, ()))
    adapted = ADAPTED.format(plan.adapt_epochs) if plan.adapt_epochs else NOT_ADAPTED
    reference = markdown_cell(plan.reference)
    parts.append(NOTES.format(adapted=adapted, reference=reference, least=LEAST_FOR_TEST))
    return "\n".join(parts)


def _pictures(paths: Sequence[str]) -> list[str]:
    return [f"![{Path(path).stem}]({path})\n" for path in paths]


def _cells(row: RowResult, test: SignedRank | None) -> list[str]:
    return [
        row.row,
        row.seeds,
        *(row.in_client[column].text() for column in COLUMNS),
        row.hd95_mm.text(1),
        row.cross_client.text(),
        row.adapted.text(),
        *(NONE if math.isnan(n) else size(n) for n in (row.up, row.down, row.in_all)),
        _p(test),
    ]


def site_rows(rows: Sequence[RowResult]) -> list[list[str]]:
    """Return the cells of the table site by site: its head, then a line a method and site."""
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
    return NONE if math.isnan(value) else f"{value:.0%}"


def _p(test: SignedRank | None) -> str:
    if test is None:
        return NONE
    if math.isnan(test.p):
        return f"{NONE} (n = {test.patients})"
    text = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    return f"{text} (n = {test.patients})"


def save_csv(plan: Plan, rows: Sequence[RowResult], out: Path) -> None:
    """Write ``results.csv``, a line a row, and ``results-long.csv``, a line a score."""
    tests = tests_against(plan, rows)
    flat = [_flat(row, tests.get((row.setting, row.row))) for row in rows]
    write_text(out / "results.csv", csv_text(flat))
    write_text(out / "results-long.csv", csv_text(list(_long(rows))))


def _flat(row: RowResult, test: SignedRank | None) -> dict[str, str]:
    spreads = {f"dice_{column}": row.in_client[column] for column in COLUMNS}
    spreads |= {"hd95_mm": row.hd95_mm, "cross_dice": row.cross_client, "adapted_dice": row.adapted}
    numbers = {
        name: value
        for key, spread in spreads.items()
        for name, value in ((key, spread.mean), (f"{key}_sd", spread.sd))
    }
    numbers |= {"bytes_up_a_round": row.up, "bytes_down_a_round": row.down, "bytes": row.in_all}
    return {
        "setting": row.setting,
        "method": row.row,
        "seeds_done": " ".join(map(str, row.finished)),
        "seeds_missing": " ".join(map(str, row.missing)),
        **{key: _number(value) for key, value in numbers.items()},
        "p": _number(test.p) if test else "",
        "patients": str(test.patients) if test else "",
    }


def _long(rows: Sequence[RowResult]) -> Iterator[dict[str, str]]:
    for row in rows:
        for seed, finished in row.finished.items():
            for score in finished.scores:
                for place, structure in enumerate(STRUCTURES):
                    yield {
                        "setting": row.setting,
                        "method": row.row,
                        "seed": str(seed),
                        "model": score.model,
                        "model_site": score.origin,
                        "site": score.site,
                        "patient": score.patient,
                        "frame": score.frame,
                        "structure": structure,
                        "dice": _number(score.dice[place]),
                        "hd95_mm": _number(score.hd95_mm[place]),
                    }


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"
