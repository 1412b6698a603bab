"""A case, and what the label values of the published data sets mean."""

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


class Columns(Mapping[str, str]):
    """A row of a table by its columns, found in any case: M&Ms has Centre, others CENTRE."""

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
    """One frame of one patient's study.

    Attributes
    ----------
    patient
        The patient's code, unique within the data folder.
    frame
        ``ED``, ``ES`` or what the data set calls it; unique within the patient.
    image, label
        Paths of the NIfTI files.
    label_map
        Canonical label of each value in the label file.
    info
        What the data set says of the patient, by column; kept as :class:`Columns`.
    axes
        What the affines' first two axes are, ``LPS`` or ``RAS``; see ``cardiac.view``.
    frame_index
        Which frame of the files it is, from 0, where they are 4-D; None where they are 3-D.
    listed
        File and row of the index that names the frame, for messages.
    """

    patient: str
    frame: str
    image: Path
    label: Path
    label_map: Mapping[int, int]
    info: Mapping[str, str]
    axes: str = "LPS"
    frame_index: int | None = None
    listed: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", Columns(self.info))

    @property
    def name(self) -> str:
        """A name for people: patient and frame, or the one where both are called alike."""
        return self.patient if self.frame == self.patient else f"{self.patient} {self.frame}"


def check_files(case: Case) -> None:
    """Refuse a case whose files are not there, without decoding them.

    Raises
    ------
    FaultError
        A file is missing, or has not the frame that the index names.
    """
    for path in (case.image, case.label):
        try:
            check_there(path, case.frame_index)
        except FaultError as error:
            raise FaultError(fault_of(case, error.fault)) from None


def fault_of(case: Case, fault: Fault) -> Fault:
    """Say whose fault it is, and where the index asks for a frame that there is not."""
    listed = f"; {case.listed}: {case.frame} is {case.frame_index}" if case.listed else ""
    text = fault.message + (listed if fault.code == "frame-missing" else "")
    return replace(fault, case=case.name, message=text)


def note_extra(folder: Path, known: str) -> Iterator[Fault]:
    """Yield a fault where a patient's folder holds files other than a pattern of their names."""
    pattern = re.compile(known.format(patient=re.escape(folder.name)))
    extra = sorted(
        path.name
        for path in folder.glob("*")
        if not path.name.startswith(".") and not pattern.fullmatch(path.name)
    )
    if extra:
        yield Fault("file-extra", f"not used: {some(extra)}", folder.name)
