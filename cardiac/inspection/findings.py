"""What an inspection can find: a code, how bad it is, and a sentence for people."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]
"""error: training stops or learns wrong things; warning: probably wrong; info: worth knowing."""
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

CODES: dict[str, Severity] = {
    # the folder and its index
    "csv-missing": "error",
    "csv-column": "error",
    "csv-row": "warning",
    "subject-twice": "error",
    "folder-missing": "error",
    "folder-unlisted": "warning",
    "info-missing": "error",
    "info-frame": "error",
    "info-range": "warning",
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
    "vendor-unknown": "info",
    "site-small": "error",
}
"""Every code; they are stable, so that scripts may rely on them."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes
    ----------
    code
        A key of ``CODES``.
    message
        What was found and what was expected.
    case
        ``PATIENT FRAME``, a patient, or empty for the whole folder.
    file
        Path below the data folder, where one file is at fault.
    """

    code: str
    message: str
    case: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        assert self.code in CODES, self.code

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return CODES[self.code]


def by_severity(findings: list[Finding]) -> list[Finding]:
    """Return the findings sorted: the worst first, then by code and case."""
    return sorted(
        findings, key=lambda f: (SEVERITIES.index(f.severity), f.code, f.case, f.file, f.message)
    )


def counts(findings: list[Finding]) -> dict[Severity, int]:
    """Return how many findings there are of each severity."""
    return {severity: sum(f.severity == severity for f in findings) for severity in SEVERITIES}


def told(findings: list[Finding]) -> str:
    """Return the counts in words: ``2 errors, 1 warning``; empty without findings."""
    return ", ".join(
        f"{number} {severity}{'s' if number > 1 and severity != 'info' else ''}"
        for severity, number in counts(findings).items()
        if number
    )
