"""Texts of other machines are harmless wherever they are shown, and stay readable."""

import csv
import io

import pytest

from common.text import NAME_LENGTH, clean, csv_text, is_name, markdown_cell

ESCAPES = "\x1b]0;title\x07\x1b[2K\r\nWARNING : forged\u202e\u2028\x9b\x7f\x00\ud800"


def test_what_a_terminal_or_log_acts_on_becomes_spaces() -> None:
    plain = clean(f"Köln{ESCAPES}東京")
    assert plain.isprintable()
    assert plain.startswith("Köln ]0;title")
    assert plain.endswith("東京")
    assert "WARNING : forged" in plain


@pytest.mark.parametrize(("length", "text"), [(3, "abc"), (3, "abcd"), (1, "x" * 10**7), (0, "")])
def test_a_long_text_is_cut(length: int, text: str) -> None:
    plain = clean(text, length)
    assert len(plain) <= length
    assert plain == text or plain.endswith("…")


@pytest.mark.parametrize(
    "name", ["GE", "東京大学医学部附属病院", "ü" * 100, "Hôpital $x$", "=1", "_x"]
)
def test_names_of_any_script_are_names(name: str) -> None:
    assert is_name(name)
    assert clean(name) == name


@pytest.mark.parametrize(
    "name", ["", " ", " A", "A ", "A\nB", "a\x7fb", "\u202egp", "x" * (NAME_LENGTH + 1), 3]
)
def test_what_is_no_name(name: object) -> None:
    assert not is_name(name)


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", " \t=1+1", "\r=1"]
)
def test_a_spreadsheet_finds_no_formula_in_a_csv(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_text([{text: text, "dice": "-0.5"}]))))
    for name, value in rows:
        assert name.startswith("'")
        assert value in ("dice", "-0.5")


def test_a_csv_has_a_line_a_row_whatever_its_texts() -> None:
    rows = [{"site": 'A"\n,B', "dice": "nan"}, {"site": "–", "dice": "1e-3"}]
    assert list(csv.reader(io.StringIO(csv_text(rows)))) == [
        ["site", "dice"],
        ['A" ,B', "nan"],
        ["–", "1e-3"],
    ]


def test_a_cell_of_a_table_is_one_line() -> None:
    assert markdown_cell(f"a|b{ESCAPES}<i>").isprintable()
