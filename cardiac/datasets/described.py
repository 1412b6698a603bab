"""Read a folder that ``dataset.toml`` describes: a csv of its cases, or nnU-Net's raw layout.

A csv names the patient, image and label of every case, and may name its frame and site::

    affine-axes = "RAS"                 # RAS as NIfTI means it, LPS as ACDC and M&Ms do
    table = "cases.csv"
    labels = {LV = 1, MYO = 2, RV = 3}
    columns = {patient = "Subject ID"}  # only columns with other names

Beside nnU-Net's ``dataset.json``, each case's patient, frame and site come from a csv with these
columns and ``case``, or from a pattern that case names match::

    affine-axes = "LPS"
    case-pattern = '(?P<patient>.+)_(?P<frame>ED|ES)'
    site = "Dijon"                  # where all cases are of one site
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cardiac.datasets.case import FRAMES, Case, Columns
from cardiac.datasets.label_names import map_labels
from cardiac.datasets.nnunet import IMAGES, INDEX, Raw, read_raw
from cardiac.datasets.sites import SITE
from cardiac.datasets.table import Row, read_table
from cardiac.faults import Fault, FaultError, not_text
from common.files import parse_json

DESCRIPTION = "dataset.toml"
COLUMNS = ("patient", "frame", "image", "label", SITE)
RAW_COLUMNS = ("case", "patient", "frame", SITE)
KINDS = {"columns": dict, "labels": dict}
"""Types of the keys whose values are not text."""
AXES = ("LPS", "RAS")
MATCH_S = 30.0
"""Most seconds for matching all cases' names."""
MATCH = """
import json, re, sys
pattern, names = json.load(sys.stdin)
matches = [re.fullmatch(pattern, name) for name in names]
json.dump([match and match.groupdict("") for match in matches], sys.stdout)
"""


def is_described(data_dir: Path) -> bool:
    """Return whether a folder has a description, or is in nnU-Net's layout and needs one."""
    return (data_dir / DESCRIPTION).is_file() or (data_dir / INDEX).is_file()


def is_nnunet(data_dir: Path) -> bool:
    """Return whether a folder is in nnU-Net's raw layout."""
    return (data_dir / INDEX).is_file()


def read_described(data_dir: Path) -> Iterator[Case | Fault]:
    """Yield the cases of a described folder, whether or not their files exist, and faults.

    Raises
    ------
    FaultError
        The description cannot be followed.
    """
    path = data_dir / DESCRIPTION
    raw_layout = is_nnunet(data_dir)
    said = _read_description(path, raw_layout=raw_layout)
    raw = read_raw(data_dir) if raw_layout else None
    label_map = raw.label_map if raw else map_labels(said["labels"], path)
    named = said.get("columns", {})
    columns = {name: name for name in (RAW_COLUMNS if raw else COLUMNS)} | named
    if raw and "case-pattern" in said:
        index, rows, faults = path, *_rows_by_pattern(raw, said["case-pattern"], path)
    else:
        index = _below(data_dir, said.get("table", "cases.csv"), path)
        keys = ("case", "patient") if raw else ("image", "label", "patient")
        table, faults = read_table(index, [columns[key] for key in dict.fromkeys((*keys, *named))])
        faults = [replace(f, code="row-cell") if f.code == "csv-row" else f for f in faults]
        rows = table or {}
        if not (rows or faults):
            faults = [Fault("csv-missing", "no rows, expected one for each case", path=index)]
        for name in raw.names() if raw and table is not None else ():
            if name not in rows:
                text = f"no row for {IMAGES}/{name}, so it takes no part"
                faults.append(Fault("case-unlisted", text, name, index))
    yield from faults
    if raw:
        yield from raw.extra()
    rows_of: dict[Path, str] = {}
    for name, row in rows.items():
        info = {**row.info, **{key: row.info[c] for key, c in columns.items() if c in row.info}}
        if "site" in said and info.setdefault(SITE, said["site"]) != said["site"]:
            text = f"{row.where}: {columns[SITE]} is {info[SITE]!r}, expected {DESCRIPTION}'s site"
            yield Fault("row-cell", f"{text} {said['site']!r}", path=index)
        if wrong := _doubt_cells(row, info, columns):
            yield from (Fault("row-cell", text, path=index) for text in wrong)
            continue
        try:
            image = raw.image(name) if raw else _below(data_dir, name, index, row.where)
            label = raw.label(name) if raw else _below(data_dir, info["label"], index, row.where)
        except FaultError as error:
            yield error.fault
            continue
        for file in (image, label):
            if (other := rows_of.setdefault(file, row.where)) != row.where:
                text = f"{row.where}: {file.name} is the file of {other} too, expected one row each"
                yield Fault("subject-twice", text, path=index)
        frame = info.get("frame") or info.get("case") or image.name.split(".nii")[0]
        frame = frame.upper() if frame.upper() in FRAMES else frame
        yield Case(info["patient"], frame, image, label, label_map, info, said["affine-axes"])


def _read_description(path: Path, *, raw_layout: bool) -> dict[str, Any]:
    """Read the keys of the description and check each."""
    axes = 'affine-axes = "LPS" or "RAS", which files alone do not tell'
    whose = "table or case-pattern, which says whose patient a case is" if raw_layout else "table"
    try:
        said = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        text = f"missing beside {INDEX}, expected it to hold {axes}, and {whose}"
        raise FaultError(Fault("description-missing", text, path=path)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(path, f"cannot be read as TOML ({error})") from None
    known = ["affine-axes", "table", "columns", SITE, "case-pattern" if raw_layout else "labels"]
    for key, value in said.items():
        if key not in known:
            raise _wrong(path, f"unknown key {key}, expected {', '.join(known)}")
        kind = KINDS.get(key, str)
        if not isinstance(value, kind) or not value:
            name = "a table of names" if kind is dict else "text"
            raise _wrong(path, f"{key}: found {value!r}, expected {name}")
    if said.get("affine-axes") not in AXES:
        raise _wrong(path, f"affine-axes: found {said.get('affine-axes')!r}, expected {axes}")
    if raw_layout and ("table" in said) == ("case-pattern" in said):
        raise _wrong(path, f"found {', '.join(said)}, expected one of {whose}")
    if "case-pattern" in said and "columns" in said:
        raise _wrong(path, "columns: found beside case-pattern, expected it only beside table")
    if not raw_layout and "labels" not in said:
        raise _wrong(path, "no labels, expected as labels = {LV = 1, MYO = 2, RV = 3}")
    columns = RAW_COLUMNS if raw_layout else COLUMNS
    for key, column in said.get("columns", {}).items():
        if key not in columns or not isinstance(column, str) or not column:
            expected = f"names of columns for some of {', '.join(columns)}"
            raise _wrong(path, f"columns: found {key} = {column!r}, expected {expected}")
    return said


def _rows_by_pattern(raw: Raw, pattern: str, path: Path) -> tuple[dict[str, Row], list[Fault]]:
    """Return each case's row from the pattern's named groups, and a fault for each mismatch."""
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        text = f"case-pattern: {pattern!r} is no regular expression ({error})"
        raise _wrong(path, text) from None
    if "patient" not in compiled.groupindex:
        raise _wrong(path, f"case-pattern: found {pattern!r}, expected a group (?P<patient>…)")
    rows, faults = {}, []
    names = raw.names()
    for name, said in zip(names, _matches(pattern, names, path), strict=True):
        if said is not None:
            rows[name] = Row(f"case-pattern, case {name}", Columns({"case": name, **said}))
        else:
            text = f"case-pattern: {name} does not match {pattern!r}, expected every case to"
            faults.append(Fault("case-name", text, name, path))
    return rows, faults


def _matches(pattern: str, names: Sequence[str], path: Path) -> list[Mapping[str, str] | None]:
    r"""Return what the pattern's groups hold of each name; None where a name does not match.

    It matches in a process of its own, because a pattern such as ``(\w+)+_ED`` may take years.
    """
    command = [sys.executable, "-I", "-c", MATCH]
    given = json.dumps([pattern, names]).encode()
    try:
        done = subprocess.run(  # noqa: S603
            command, input=given, capture_output=True, timeout=MATCH_S, check=True
        )
    except subprocess.TimeoutExpired:
        text = f"{pattern!r} takes more than {MATCH_S:g} s, expected no repeated group that repeats"
        raise _wrong(path, f"case-pattern: {text} itself, as in (a+)+") from None
    matches: list[Mapping[str, str] | None] = parse_json(done.stdout)
    return matches


def _doubt_cells(row: Row, info: Mapping[str, str], columns: Mapping[str, str]) -> list[str]:
    """Return what is wrong with a row's cells and what is expected, as sentences."""
    wrong = []
    for key, column in columns.items():
        cell = info.get(key)
        if cell == "" and key != SITE:
            wrong.append(f"{row.where}: {column} is empty, expected a value")
        elif doubt := not_text(cell or ""):
            wrong.append(f"{row.where}: {column} is {doubt}")
        elif key == "case" and cell and os.sep in cell:
            wrong.append(f"{row.where}: {column} is a path, expected a name in {IMAGES}")
    return wrong


def _below(data_dir: Path, said: str, path: Path, where: str = "table") -> Path:
    """Return a path that the csv or the description names; a relative one must stay inside."""
    if Path(os.path.normpath(said)).parts[:1] == ("..",):
        text = f"{where}: {said} leads out of the folder, expected a path in it or an absolute one"
        raise FaultError(Fault("path-outside", text, path=path))
    return Path(os.path.normpath(data_dir / said))


def _wrong(path: Path, message: str) -> FaultError:
    return FaultError(Fault("description-key", message, path=path))
