"""Tables of what ``predict`` measured: volumes of each frame and function of each case."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from cardiac.clinical import Function, HeartFunction, myo_mass_g
from common.files import write_text
from common.text import csv_text

PLAUSIBLE_MYO_G = (20, 500)
"""Mass of a left ventricle in g, from a child's to the most hypertrophic."""


@dataclass(frozen=True)
class FrameRow:
    """The volumes of one frame."""

    case: str
    file: Path
    frame: int
    """Number of the frame within its file, from 1."""
    phase: str
    """``ED``, ``ES`` or empty."""
    ml: Mapping[str, float]
    """Volume of each structure by its name."""

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
    """The function of one case."""

    case: str
    ed_frame: int | None
    """Number of the ED frame in its cine, from 1; None without a cine."""
    es_frame: int | None
    function: HeartFunction
    no_ef: str = ""
    """Why an ejection fraction is missing; empty where none is."""

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
        """Return which numbers are impossible for a heart, so that the labels must be wrong."""
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
    return {
        f"{name}_EDV_ml": _number(function.edv_ml),
        f"{name}_ESV_ml": _number(function.esv_ml),
        f"{name}_SV_ml": _number(function.stroke_volume_ml),
        f"{name}_EF_percent": _number(function.ejection_fraction_percent),
    }


def _number(value: float) -> str:
    """Return a number for a csv cell; empty for NaN."""
    return "" if math.isnan(value) else f"{value:.2f}"


def save_tables(frames: Sequence[FrameRow], cases: Sequence[CaseRow], out: Path) -> None:
    """Write ``volumes.csv`` and ``function.csv``."""
    write_text(out / "volumes.csv", csv_text([row.cells() for row in frames]))
    write_text(out / "function.csv", csv_text([row.cells() for row in cases]))


def function_table(cases: Sequence[CaseRow]) -> Table:
    """Return a table of the cases' function for the console."""
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
