"""What ``predict`` measured: a row a frame, a row a case, as csv files and as a table."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from cardiac.clinical import Function, HeartFunction, myo_mass_g
from common.files import write_text

PLAUSIBLE_MYO_G = (20, 500)
"""Mass of a left ventricle, from a child's to the most hypertrophic."""
VENTRICLE_COLUMNS = ("EDV_ml", "ESV_ml", "SV_ml", "EF_percent")


@dataclass(frozen=True)
class FrameRow:
    """One frame's volumes; ``frame`` counts from 1 within its file."""

    case: str
    file: Path
    frame: int
    phase: str
    ml: Mapping[str, float]

    def cells(self) -> dict[str, str]:
        """Return the row of ``volumes.csv``."""
        return {
            "case": self.case,
            "file": str(self.file),
            "frame": str(self.frame),
            "phase": self.phase,
            "LV_ml": _number(self.ml["LV"]),
            "MYO_ml": _number(self.ml["MYO"]),
            "MYO_g": _number(myo_mass_g(self.ml["MYO"])),
            "RV_ml": _number(self.ml["RV"]),
        }


@dataclass(frozen=True)
class CaseRow:
    """One case's function; frames count from 1 and are None where no cine was searched.

    ``no_ef`` says why an ejection fraction is missing; it is empty where none is.
    """

    case: str
    ed_frame: int | None
    es_frame: int | None
    function: HeartFunction
    no_ef: str = ""

    def cells(self) -> dict[str, str]:
        """Return the row of ``function.csv``."""
        return {
            "case": self.case,
            "ED_frame": str(self.ed_frame or ""),
            "ES_frame": str(self.es_frame or ""),
            **_ventricle("LV", self.function.lv),
            **_ventricle("RV", self.function.rv),
            "MYO_ED_g": _number(self.function.myo_g),
            "doubts": "; ".join(self.doubts()),
            "no_EF": self.no_ef,
        }

    def doubts(self) -> list[str]:
        """Return what of these numbers cannot be a heart's: the labels must be wrong."""
        sides = {"LV": self.function.lv, "RV": self.function.rv}
        found = [
            f"{name} is larger at ES than at ED"
            for name, side in sides.items()
            if side.esv_ml > side.edv_ml
        ]
        low, high = PLAUSIBLE_MYO_G
        if not math.isnan(self.function.myo_g) and not low <= self.function.myo_g <= high:
            found.append(f"a mass outside {low} to {high} g")
        return found


def _ventricle(name: str, function: Function) -> dict[str, str]:
    values = (
        function.edv_ml,
        function.esv_ml,
        function.stroke_volume_ml,
        function.ejection_fraction_percent,
    )
    return {
        f"{name}_{column}": _number(value)
        for column, value in zip(VENTRICLE_COLUMNS, values, strict=True)
    }


def _number(value: float) -> str:
    """Return a number for a csv cell, nothing where it is unknown."""
    return "" if math.isnan(value) else f"{value:.2f}"


def save_tables(frames: Sequence[FrameRow], cases: Sequence[CaseRow], out: Path) -> None:
    """Write ``volumes.csv`` and ``function.csv``; there must be a row for each."""
    for name, rows in (("volumes.csv", frames), ("function.csv", cases)):
        write_text(out / name, _csv([row.cells() for row in rows]))


def _csv(rows: Sequence[Mapping[str, str]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def function_table(cases: Sequence[CaseRow]) -> Table:
    """Return the cases' function as a table for people."""
    table = Table(title="Function (ml, EF in %, mass in g)")
    columns = [f"{v} {c}" for v in ("LV", "RV") for c in ("EDV", "ESV", "EF")]
    for name in ("case", *columns, "MYO"):
        table.add_column(name, justify="left" if name == "case" else "right")
    for row in cases:
        shown = row.function
        numbers = [
            value
            for side in (shown.lv, shown.rv)
            for value in (side.edv_ml, side.esv_ml, side.ejection_fraction_percent)
        ]
        cells = ("-" if math.isnan(n) else f"{n:.1f}" for n in (*numbers, shown.myo_g))
        table.add_row(row.case, *cells)
    return table
