"""Read the csv that lists a data set's patients."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cardiac.datasets.case import Columns
from cardiac.faults import Fault


class Row(NamedTuple):
    """A row of the csv."""

    where: str
    """Line and name of the row, for messages."""
    info: Columns


def read_table(
    index: Path,
    needed: Sequence[str],
    name: Callable[[Columns], str] | None = None,
) -> tuple[dict[str, Row] | None, list[Fault]]:
    """Read the rows that have a name; the published files are padded with empty rows.

    Parameters
    ----------
    index
        The csv. Its columns may be in upper or lower case.
    needed
        Columns that must exist; the first holds the rows' names.
    name
        Returns the name of a row, where it is not the first column as it stands.

    Returns
    -------
    rows : dict or None
        Rows by name; None where the file cannot be read or lacks a column.
    faults : list of Fault
        All that is wrong with the file.
    """
    try:
        with index.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            reader = csv.DictReader(file, strict=True)  # or an open quote hides all rows after it
            columns = [column for column in reader.fieldnames or [] if column.strip()]
            lines = [(reader.line_num, row) for row in reader]
    except FileNotFoundError:
        text = f"missing, expected a csv with a column {needed[0]}"
        return None, [Fault("csv-missing", text, path=index)]
    except (OSError, ValueError, csv.Error) as error:
        return None, [Fault("csv-missing", f"cannot be read as csv ({error})", path=index)]
    spelled = [column.strip().casefold() for column in columns]
    if twice := sorted({column for column in spelled if spelled.count(column) > 1}):
        text = f"column {', '.join(twice)} is there twice, expected each column once"
        return None, [Fault("csv-column", text, path=index)]
    if missing := [column for column in needed if column.casefold() not in spelled]:
        hint = "; are its columns separated by commas?" if len(columns) < 2 else ""
        text = f"; found {', '.join(columns) or 'nothing'}{hint}"
        return None, [
            Fault("csv-column", f"no column {column}{text}", path=index) for column in missing
        ]
    rows: dict[str, Row] = {}
    faults = []
    for number, row in lines:
        info = Columns({key.strip(): (row[key] or "").strip() for key in columns})
        named = info[needed[0]] and (name(info) if name else info[needed[0]])
        if None in row or (not named and any(info.values())):
            found = "more cells than columns" if None in row else f"no {needed[0]}"
            text = f"line {number}: {found}, expected {','.join(columns)}"
            faults.append(Fault("csv-row", text, path=index))
        if named in rows:
            again = f"{needed[0]}: subject {info[needed[0]]} is listed twice"
            text = f"line {number}: {again}, expected one row each"
            faults.append(Fault("subject-twice", text, named, index))
        elif named:
            rows[named] = Row(f"line {number}, row of {info[needed[0]]}", info)
    return rows, faults
