"""The results as Markdown and as csv, one row a method and one row a score."""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from common.files import write_text
from common.labels import STRUCTURES
from results.compare.plan import Plan
from results.compare.results import LEAST_FOR_TEST, RowResult, SignedRank, patient_test
from results.compare.scores import COLUMNS
from results.compare.sites import site_rows
from results.report.tables import size

NONE = "–"
HEAD = (
    *("method", "seeds", *COLUMNS, "HD95 mm", "cross-client", "adapted"),
    *("up a round", "down a round", "in all", "p"),
)
NOTES = """\
Dice on test patients, mean ± standard deviation over seeds. LV, MYO, RV and mean are in-client:
every site's own model (its personal one if it has one, else the merged one) on its own patients;
HD95 is of the same pairs. Cross-client is the same models on the other sites' patients; with one
merged model it equals in-client. {adapted} Every site counts once. Bytes are payload of all sites
together; the base model and what it costs to spread it are not in them, nor are images where data
are pooled. p is of the two-sided Wilcoxon signed-rank test against {reference}, a pair a patient
(mean over frames, structures and seeds), for n of at least {least}; it is not corrected for the
number of rows. Site by site: last local is what the site sent last, before any merge; rounds
penalised are those in which its penalty was below 1, and what was taken of its share in these.
"""
ADAPTED = (
    "Adapted is the own model after {} local epoch(s) of a fresh adapter, on the site's own\n"
    "patients."
)
NOT_ADAPTED = "Nothing was adapted."


def tests_against(plan: Plan, rows: Sequence[RowResult]) -> dict[tuple[str, str], SignedRank]:
    """Return the test of every row but the reference, by (setting, row)."""
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
    """Return the whole of ``results.md``.

    Parameters
    ----------
    plan, rows
        The comparison and its results.
    plots
        By setting, the files of its pictures as seen from the page.
    overview
        Those of all settings together.
    """
    tests = tests_against(plan, rows)
    parts = [f"# {_cell(plan.path.stem)}\n", *_pictures(overview)]
    for setting in plan.settings:
        if setting:
            parts.append(f"## {_cell(setting)}\n")
        own = [row for row in rows if row.setting == setting]
        parts.append(_table([_cells(row, tests.get((setting, row.row))) for row in own]))
        if gone := [line for row in own for line in _missing(row)]:
            parts.append("Missing:\n\n" + "".join(f"- {_cell(line)}\n" for line in gone))
        parts.append("Site by site:\n")
        parts.append(_listed(site_rows(own)))
        parts += _pictures(plots.get(setting, ()))
    adapted = ADAPTED.format(plan.adapt_epochs) if plan.adapt_epochs else NOT_ADAPTED
    reference = _cell(plan.reference)
    parts.append(NOTES.format(adapted=adapted, reference=reference, least=LEAST_FOR_TEST))
    return "\n".join(parts)


def _pictures(paths: Sequence[str]) -> list[str]:
    return [f"![{Path(path).stem}]({path})\n" for path in paths]


def _table(rows: Sequence[Sequence[str]]) -> str:
    return _listed([HEAD, *rows])


def _listed(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as a table; the first is its head, the first two columns are names."""
    right = ["---"] * 2 + ["---:"] * (len(rows[0]) - 2)
    lines = (f"| {' | '.join(map(_cell, cells))} |\n" for cells in (rows[0], right, *rows[1:]))
    return "".join(lines)


def _cells(row: RowResult, test: SignedRank | None) -> list[str]:
    bytes_ = (row.up, row.down, row.in_all)
    return [
        row.row,
        row.seeds,
        *(row.in_client[column].text() for column in COLUMNS),
        row.hd95_mm.text(1),
        row.cross_client.text(),
        row.adapted.text(),
        *(NONE if math.isnan(value) else size(value) for value in bytes_),
        _p(test),
    ]


def _p(test: SignedRank | None) -> str:
    if test is None:
        return NONE
    if math.isnan(test.p):
        return f"{NONE} (n = {test.patients})"
    text = "< 0.001" if test.p < 0.001 else f"{test.p:.3f}"
    return f"{text} (n = {test.patients})"


def _missing(row: RowResult) -> Iterator[str]:
    for seed, why in row.missing.items():
        yield f"{row.row}, seed {seed}: {why}"


def _cell(text: str) -> str:
    """Return a text that cannot break a table or become a tag."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def save_csv(plan: Plan, rows: Sequence[RowResult], out: Path) -> None:
    """Write ``results.csv``, a line a row, and ``results-long.csv``, a line a score."""
    tests = tests_against(plan, rows)
    write_text(out / "results.csv", _csv([_flat(r, tests.get((r.setting, r.row))) for r in rows]))
    write_text(out / "results-long.csv", _csv(list(_long(rows))))


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


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    if not rows:
        return ""
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()
