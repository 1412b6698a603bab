"""What can be wrong with a data folder: a code, how bad it is, and a sentence for people.

Readers yield faults. Training raises the first that is an error; ``check`` lists all.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.errors import UserError

Severity = Literal["error", "warning", "info"]
"""error: training stops or learns wrong things; warning: probably wrong; info: worth knowing."""
NAMED = 3
"""Most names that a message lists."""

_CODES_OF: dict[Severity, str] = {
    "error": """
        csv-missing csv-several csv-column subject-twice folder-missing folder-several
        info-missing info-frame description-missing description-key label-names
        case-name row-cell path-outside column-missing patient-sites site-small
        file-missing file-unreadable file-huge not-3d frame-missing check-failed
        affine-degenerate shape-differs slice-axis image-not-finite image-constant
        label-values label-not-whole label-empty label-numbering structure-missing
        frames-same duplicate-image split-leak
    """,
    "warning": """
        csv-row folder-unlisted info-range case-unlisted column-empty
        affine-differs spacing-header spacing-unit spacing-in-plane spacing-uneven spacing-slice
        slice-count field-of-view view-turned view-mirrored
        image-few-values image-clipped slice-blank
        structure-pieces structure-gap structure-volume label-stray label-holes label-cut
        lv-uncovered rv-apart blood-dark
        frames-differ labels-same es-larger duplicate-label
    """,
    "info": "file-extra view-unsure vendor-unknown",
}
CODES = {code: severity for severity, codes in _CODES_OF.items() for code in codes.split()}
"""Severity of every code. Codes are stable, so that scripts may rely on them."""
SEVERITIES = tuple(_CODES_OF)


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, or worth knowing."""

    code: str
    """A key of ``CODES``."""
    message: str
    """What was found and what was expected."""
    case: str = ""
    """``PATIENT FRAME``, a patient, or empty for the whole folder."""
    path: Path | None = None
    """The file at fault; None where it is not one file."""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def severity(self) -> Severity:
        """``error``, ``warning`` or ``info``, by the code."""
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
    """Raise a :class:`FaultError` for the first fault that is an error, if there is one."""
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
    """Return the counts in words, such as ``2 errors, 1 warning``; empty without faults."""
    return ", ".join(
        f"{number} {severity}{'s' if number > 1 and severity != 'info' else ''}"
        for severity, number in counts(faults).items()
        if number
    )


def not_text(name: str) -> str:
    """Return a name that is not UTF-8 with what is expected; empty where it is.

    Two such names may read as one, and no path holds a NUL.
    """
    odd = re.search("[\0\ud800-\udfff\ufffd]", name)
    return f"{name!a}, expected text in UTF-8" if odd else ""


def some(names: Iterable[str]) -> str:
    """Return the first ``NAMED`` names, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
