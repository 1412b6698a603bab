"""Numbers, durations, sizes and tables as text, and text of other machines made fit to show."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeGuard

MINUS = "−"
NONE = "–"
"""Printed in place of a missing number."""
NAME_LENGTH = 100
"""Most letters of a site's name."""
A_NAME = f"1 to {NAME_LENGTH} printable letters without a space at either end"
"""What a site's name consists of."""
TEXT_LENGTH = 300
"""Most letters that are shown of a text from another machine."""
FORMULA = tuple("=+-@")
"""What begins a formula where a spreadsheet opens a csv file."""


def clean(text: object, length: int = TEXT_LENGTH) -> str:
    """Return a text of another machine in printable letters on one line, cut to ``length``.

    Terminals act on control characters, line breaks forge lines of a log, and letters that turn
    the direction of writing hide what is written; each of them becomes a space.
    """
    found = str(text)
    plain = "".join(x if x.isprintable() else " " for x in found[: length + 1])
    return plain if len(plain) <= length else plain[: length - 1] + "…"


def is_name(text: object) -> TypeGuard[str]:
    """Return whether a text can be the name of a site."""
    return (
        isinstance(text, str)
        and text == text.strip() != ""
        and len(text) <= NAME_LENGTH
        and text.isprintable()
    )


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with this many decimals, or a dash for None, NaN and infinity."""
    return _formatted(value, f".{digits}f")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number with its sign, or a dash for None, NaN and infinity."""
    return _formatted(value, f"+.{digits}f")


def _formatted(value: float | None, form: str) -> str:
    if value is None or not math.isfinite(value):
        return NONE
    return format(value, form).replace("-", MINUS)


def mib(n: float) -> str:
    """Return bytes as MiB."""
    return f"{n / 2**20:.2f} MiB"


def size(n: float) -> str:
    """Return bytes as MiB, or as KiB below one MiB."""
    return mib(n) if n >= 2**20 else f"{n / 2**10:.1f} KiB"


def duration(seconds: float) -> str:
    """Return seconds as ``4.2 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def clock(seconds: float) -> str:
    """Return seconds as ``3:20`` or ``2:05:00``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def count(n: int, one: str) -> str:
    """Return ``1 patient``, ``2 patients``."""
    return f"{n} {one if n == 1 else one + 's'}"


def csv_text(rows: Sequence[Mapping[str, str]]) -> str:
    """Return rows as csv; the keys of the first row are the columns."""
    text = io.StringIO()
    if rows:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(map(_csv_cell, rows[0]))
        table.writerows([_csv_cell(row[key]) for key in rows[0]] for row in rows)
    return text.getvalue()


def _csv_cell(text: str) -> str:
    """Return a cell on one line that no spreadsheet takes for a formula; numbers stay."""
    plain = clean(text, len(text))
    return f"'{plain}" if plain.lstrip().startswith(FORMULA) and not _is_number(plain) else plain


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def markdown_cell(text: str) -> str:
    """Return a text on one line that cannot break a Markdown table or become a tag."""
    return " ".join(clean(text, len(text)).split()).replace("|", "\\|").replace("<", "&lt;")


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], words: int | None = None
) -> str:
    """Return a Markdown table; columns after the first ``words`` (all) are aligned right."""
    left = len(head) if words is None else words
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = (map(markdown_cell, cells) for cells in (head, rule, *rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
