"""Every fault in docs/reliability.md names a test that exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
COLUMNS = 6
AT_LEAST = 80


def rows() -> list[list[str]]:
    """Return the cells of every fault: the rows of all tables whose first column is ``fault``."""
    page = PAGE.read_text(encoding="utf-8")
    tables = re.findall(r"^\| fault \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    lines = [line for table in tables for line in table.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def named() -> list[str]:
    """Return every test that the page names."""
    return sorted(set(re.findall(r"`([\w/]+\.py::\w+)`", PAGE.read_text(encoding="utf-8"))))


@cache
def functions_of(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_there_are_many_faults_and_each_is_there_once() -> None:
    faults = [row[0] for row in rows()]
    assert len(faults) >= AT_LEAST
    assert len(faults) == len(set(faults))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_a_fault_has_every_column_and_a_test(row: list[str]) -> None:
    assert len(row) == COLUMNS
    assert all(row)
    assert re.fullmatch(r"(`[\w/]+\.py::\w+`(, )?)+", row[-1])


@pytest.mark.parametrize("name", named())
def test_a_test_that_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert function in functions_of(TESTS / path)
