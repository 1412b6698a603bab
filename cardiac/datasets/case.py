"""A case, and what the label values of each data set mean."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

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
        ``ED`` or ``ES``.
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
    """

    patient: str
    frame: str
    image: Path
    label: Path
    label_map: Mapping[int, int]
    info: Mapping[str, str]
    axes: str = "LPS"
    frame_index: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "info", Columns(self.info))

    @property
    def name(self) -> str:
        """A name for people: patient and frame."""
        return f"{self.patient} {self.frame}"
