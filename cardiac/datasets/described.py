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

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cardiac.datasets.case import FRAMES, Case, Columns
from cardiac.datasets.label_names import map_labels
from cardiac.datasets.nnunet import IMAGES, INDEX, Raw, read_raw
from cardiac.datasets.sites import SITE
from cardiac.datasets.table import Row, read_table
from cardiac.faults import Fault, FaultError

DESCRIPTION = "dataset.toml"
COLUMNS = ("case", "patient", "frame", "image", "label", SITE)
KINDS = {"columns": dict, "labels": dict}
"""Types of the keys whose values are not text."""
AXES = ("LPS", "RAS")


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
    columns = {name: name for name in COLUMNS} | said.get("columns", {})
    if raw and "case-pattern" in said:
        index, rows, faults = path, *_rows_by_pattern(raw, said["case-pattern"], path)
    else:
        index = _below(data_dir, said.get("table", "cases.csv"), path)
        keys = ("case", "patient") if raw else ("image", "label", "patient")
        table, faults = read_table(index, [columns[key] for key in keys])
        rows = table or {}
        for name in raw.names() if raw and table is not None else ():
            if name not in rows:
                text = f"no row for {IMAGES}/{name}, so it takes no part"
                faults.append(Fault("case-unlisted", text, name, index))
    yield from faults
    if raw:
        yield from raw.extra()
    for name, row in rows.items():
        info = {**row.info, **{key: row.info[c] for key, c in columns.items() if c in row.info}}
        if "site" in said and info.setdefault(SITE, said["site"]) != said["site"]:
            text = f"{row.where}: {columns[SITE]} is {info[SITE]!r}, expected {DESCRIPTION}'s site"
            yield Fault("row-cell", f"{text} {said['site']!r}", path=index)
        if empty := [key for key in ("patient", "frame", "label") if info.get(key, "x") == ""]:
            text = ", ".join(columns[key] for key in empty)
            yield Fault("row-cell", f"{row.where}: {text} is empty, expected a value", path=index)
            continue
        try:
            image = raw.image(name) if raw else _below(data_dir, name, index, row.where)
            label = raw.label(name) if raw else _below(data_dir, info["label"], index, row.where)
        except FaultError as error:
            yield error.fault
            continue
        frame = info.get("frame") or info.get("case") or image.name.split(".")[0]
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
    except (OSError, ValueError) as error:
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
    if not raw_layout and "labels" not in said:
        raise _wrong(path, "no labels, expected as labels = {LV = 1, MYO = 2, RV = 3}")
    for key, column in said.get("columns", {}).items():
        if key not in COLUMNS or not isinstance(column, str):
            expected = ", ".join(COLUMNS)
            raise _wrong(path, f"columns: found {key} = {column!r}, expected some of {expected}")
    return said


def _rows_by_pattern(raw: Raw, pattern: str, path: Path) -> tuple[dict[str, Row], list[Fault]]:
    """Return each case's row from the pattern's named groups, and a fault for each mismatch."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        text = f"case-pattern: {pattern!r} is no regular expression ({error})"
        raise _wrong(path, text) from None
    if "patient" not in compiled.groupindex:
        raise _wrong(path, f"case-pattern: found {pattern!r}, expected a group (?P<patient>…)")
    rows, faults = {}, []
    for name in raw.names():
        if match := compiled.fullmatch(name):
            said = {key: value or "" for key, value in match.groupdict().items()}
            rows[name] = Row(f"case-pattern, case {name}", Columns({"case": name, **said}))
        else:
            text = f"case-pattern: {name} does not match {pattern!r}, expected every case to"
            faults.append(Fault("case-name", text, name, path))
    return rows, faults


def _below(data_dir: Path, said: str, path: Path, where: str = "table") -> Path:
    """Return a path that the csv or the description names; a relative one must stay inside."""
    found = Path(os.path.normpath(data_dir / said))
    if not Path(said).is_absolute() and not found.is_relative_to(os.path.normpath(data_dir)):
        text = f"{where}: {said} leads out of the folder, expected a path in it or an absolute one"
        raise FaultError(Fault("path-outside", text, path=path))
    return found


def _wrong(path: Path, message: str) -> FaultError:
    return FaultError(Fault("description-key", message, path=path))
