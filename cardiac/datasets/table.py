"""The csv that says who a data set's patients are."""

import csv
from collections.abc import Iterable
from pathlib import Path

from common.errors import UserError


def read_rows(index: Path, code: str, needed: Iterable[str] = ()) -> list[dict[str, str]]:
    """Return the rows that name a patient; the published files are padded with empty ones.

    Parameters
    ----------
    index
        The csv.
    code
        Column of the patients' codes.
    needed
        Other columns that must be there.

    Raises
    ------
    UserError
        A column is missing.
    """
    with index.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        reader = csv.DictReader(file)
        rows = [{k: (v or "").strip() for k, v in row.items() if k} for row in reader]
        columns = reader.fieldnames or []
    for column in (code, *needed):
        if column not in columns:
            raise UserError(f"{index}: no column {column}; found {', '.join(columns)}")
    return [row for row in rows if row[code]]
