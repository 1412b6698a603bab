"""One case of a data set, and the label values of the published data sets."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cardiac.faults import Fault, FaultError, some
from cardiac.nifti import check_there
from common.labels import BACKGROUND, LV, MYO, RV

ACDC_LABELS = {0: BACKGROUND, 1: RV, 2: MYO, 3: LV}
MNMS_LABELS = {0: BACKGROUND, 1: LV, 2: MYO, 3: RV}
FRAMES = ("ED", "ES")


NUMBER = "[0-9]{1,9}"
"""Pattern of a whole number in a text of others; Python reads none of thousands of digits."""


def is_number(text: str) -> bool:
    """Return whether a text is a whole number of at most nine digits from 0 to 9."""
    return re.fullmatch(NUMBER, text) is not None


class Columns(Mapping[str, str]):
    """A row of a table by column name in upper or lower case: M&Ms has Centre, others CENTRE."""

    def __init__(self, row: Mapping[str, str]) -> None:
        self._row = dict(row)
        self._spelling = {name.casefold(): name for name in reversed(self._row)}

    def __getitem__(self, name: str) -> str:
        if name not in self._row:
            name = self._spelling[name.casefold()]
        return self._row[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)


@dataclass(frozen=True)
class Case:
    """One frame of one patient's study."""

    patient: str
    """The patient's code, unique within the data folder."""
    frame: str
    """``ED``, ``ES`` or the data set's own name; unique within the patient."""
    image: Path
    """NIfTI file of the image."""
    label: Path
    """NIfTI file of the label map."""
    label_map: Mapping[int, int]
    """Canonical label of each value in the label file."""
    info: Mapping[str, str]
    """What the data set says about the patient, by column; kept as :class:`Columns`."""
    axes: str = "LPS"
    """Axes that the files' affines lead into, ``LPS`` or ``RAS``; see ``cardiac.view``."""
    frame_index: int | None = None
    """Index of the frame in 4-D files, from 0; None where the files are 3-D."""
    listed: str = ""
    """File and row of the index that names the frame, for messages."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", Columns(self.info))

    @property
    def name(self) -> str:
        """Patient and frame for people, written once where both are the same."""
        return self.patient if self.frame == self.patient else f"{self.patient} {self.frame}"


def check_files(case: Case) -> None:
    """Raise a :class:`FaultError` where a case's file is missing or lacks the case's frame.

    Only headers are read.
    """
    for path in (case.image, case.label):
        try:
            check_there(path, case.frame_index)
        except FaultError as error:
            raise FaultError(fault_of(case, error.fault)) from None


def fault_of(case: Case, fault: Fault) -> Fault:
    """Return the fault with the case's name, and for a missing frame the index's row."""
    listed = f"; {case.listed}: {case.frame} is {case.frame_index}" if case.listed else ""
    text = fault.message + (listed if fault.code == "frame-missing" else "")
    return replace(fault, case=case.name, message=text)


def note_extra(folder: Path, known: str) -> Iterator[Fault]:
    """Yield a fault where a patient's folder holds files whose names do not match a pattern."""
    pattern = re.compile(known.format(patient=re.escape(folder.name)))
    extra = sorted(
        path.name
        for path in folder.glob("*")
        if not path.name.startswith(".") and not pattern.fullmatch(path.name)
    )
    if extra:
        yield Fault("file-extra", f"not used: {some(extra)}", folder.name)
