"""What can be wrong with a data folder: a code, how bad it is, and a sentence for people.

Readers yield faults. Training raises the first that is an error; ``check`` lists all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError

Severity = Literal["error", "warning", "info"]
"""error: training stops or learns wrong things; warning: probably wrong; info: worth knowing."""
NAMED = 3
"""Names given of a list that may be long."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

CODES: dict[str, Severity] = {
    # the folder and its index
    "csv-missing": "error",
    "csv-several": "error",
    "csv-column": "error",
    "csv-row": "warning",
    "subject-twice": "error",
    "folder-missing": "error",
    "folder-several": "error",
    "folder-unlisted": "warning",
    "info-missing": "error",
    "info-frame": "error",
    "info-range": "warning",
    "description-missing": "error",
    "description-key": "error",
    "label-names": "error",
    "case-name": "error",
    "case-unlisted": "warning",
    "row-cell": "error",
    "path-outside": "error",
    "file-missing": "error",
    "file-extra": "info",
    # files
    "file-unreadable": "error",
    "not-3d": "error",
    "frame-missing": "error",
    "file-huge": "error",
    "affine-degenerate": "error",
    "check-failed": "error",
    # the grid
    "shape-differs": "error",
    "affine-differs": "warning",
    "spacing-header": "warning",
    "spacing-unit": "warning",
    "spacing-in-plane": "warning",
    "spacing-uneven": "warning",
    "spacing-slice": "warning",
    "slice-axis": "error",
    "slice-count": "warning",
    "field-of-view": "warning",
    "view-unsure": "info",
    "view-turned": "warning",
    "view-mirrored": "warning",
    # the image
    "image-not-finite": "error",
    "image-constant": "error",
    "image-few-values": "warning",
    "image-clipped": "warning",
    "slice-blank": "warning",
    # the label
    "label-values": "error",
    "label-not-whole": "error",
    "label-empty": "error",
    "label-numbering": "error",
    "structure-missing": "error",
    "structure-pieces": "warning",
    "structure-gap": "warning",
    "structure-volume": "warning",
    "label-stray": "warning",
    "label-holes": "warning",
    "label-cut": "warning",
    "lv-uncovered": "warning",
    "rv-apart": "warning",
    "blood-dark": "warning",
    # a patient's two frames
    "frames-differ": "warning",
    "frames-same": "error",
    "labels-same": "warning",
    "es-larger": "warning",
    # patients and sites
    "duplicate-image": "error",
    "duplicate-label": "warning",
    "split-leak": "error",
    "column-missing": "error",
    "column-empty": "warning",
    "patient-sites": "error",
    "vendor-unknown": "info",
    "site-small": "error",
}
"""Every code; they are stable, so that scripts may rely on them."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth knowing.

    Attributes
    ----------
    code
        A key of ``CODES``.
    message
        What was found and what was expected.
    case
        ``PATIENT FRAME``, a patient, or empty for the whole folder.
    path
        The file at fault, where it is one.
    """

    code: str
    message: str
    case: str = ""
    path: Path | None = None

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code]

    @property
    def file(self) -> str:
        """Name of the file at fault; empty where it is not one file."""
        return self.path.name if self.path else ""


class FaultError(UserError):
    """A fault that stops the work; its message names the file and the case."""

    def __init__(self, fault: Fault) -> None:
        text = f"{fault.path}: {fault.message}" if fault.path else fault.message
        super().__init__(text if fault.case in text else f"{text} (patient {fault.case})")
        self.fault = fault


def raise_first(faults: Iterable[Fault]) -> None:
    """Stop at the first fault that is an error.

    Raises
    ------
    FaultError
        There is one.
    """
    for fault in faults:
        if fault.severity == "error":
            raise FaultError(fault)


def by_severity(faults: list[Fault]) -> list[Fault]:
    """Return the faults sorted: the worst first, then by code and case."""
    return sorted(
        faults, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.case, f.file, f.message)
    )


def counts(faults: list[Fault]) -> dict[Severity, int]:
    """Return how many faults there are of each severity."""
    return {severity: sum(f.severity == severity for f in faults) for severity in SEVERITIES}


def told(faults: list[Fault]) -> str:
    """Return the counts in words: ``2 errors, 1 warning``; empty without faults."""
    return ", ".join(
        f"{number} {severity}{'s' if number > 1 and severity != 'info' else ''}"
        for severity, number in counts(faults).items()
        if number
    )


def some(names: Iterable[str]) -> str:
    """Return the first few of the names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
