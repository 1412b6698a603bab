"""Read a case's image and label, check them, and map the label onto the canonical labels."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cardiac.datasets.case import Case, fault_of
from cardiac.faults import Fault, FaultError
from cardiac.nifti import Stack, doubt_affine, doubt_intensities, read_stack
from cardiac.view import lps_affine

SHOWN = 4
"""Most unknown label values that a message lists."""


@dataclass(frozen=True)
class CaseFiles:
    """What a case's files hold."""

    image: Stack | None
    """The image as stored, with its affine into LPS; None where it cannot be read."""
    label: Stack | None
    """The label file, in the same way."""
    canonical: np.ndarray | None
    """(i, j, k) uint8, canonical labels on the image's grid; None where they are unknown."""
    faults: list[Fault]
    """All that is wrong with the files."""


def read_case(case: Case) -> CaseFiles:
    """Read the files of a case and collect their faults instead of stopping at one."""
    faults: list[Fault] = []

    def note(path: Path, found: Iterable[tuple[str, str]]) -> None:
        faults.extend(Fault(code, text, case.name, path) for code, text in found)

    image, label = (_read(case, path, faults) for path in (case.image, case.label))
    canonical = None
    differs = image is not None and label is not None and image.data.shape != label.data.shape
    if label is not None:
        note(case.label, doubt_affine(label))
    if image is not None and label is not None and differs:
        text = f"shape {label.data.shape}, expected the image's {image.data.shape}"
        note(case.label, [("shape-differs", text)])
    if image is not None:
        note(case.image, doubt_affine(image))
        note(case.image, doubt_intensities(image.data))
    if label is not None:
        found, canonical = to_canonical(label.data, case)
        note(case.label, found)
    return CaseFiles(image, label, None if differs else canonical, faults)


def _read(case: Case, path: Path, faults: list[Fault]) -> Stack | None:
    try:
        stack = read_stack(path, case.frame_index)
    except FaultError as error:
        faults.append(fault_of(case, error.fault))
        return None
    return replace(stack, affine=lps_affine(stack.affine, case.axes))


def to_canonical(stored: np.ndarray, case: Case) -> tuple[list[tuple[str, str]], np.ndarray | None]:
    """Map stored label values onto canonical labels, uint8; return faults, and None with them."""
    values = np.unique(stored)
    known = sorted(case.label_map)
    if not np.isin(values, known).all():
        strange = [f"{value:g}" for value in values if value not in case.label_map]
        shown = ", ".join(strange[:SHOWN]) + (" …" if len(strange) > SHOWN else "")
        whole = np.isfinite(values).all() and (values == np.rint(values)).all()
        code = "label-values" if whole else "label-not-whole"
        return [(code, f"label value {shown} is unknown; expected {known}")], None
    table = np.zeros(max(known) + 1, np.uint8)
    for value, label in case.label_map.items():
        table[value] = label
    canonical: np.ndarray = table[stored.astype(int)]
    if canonical.any():
        return [], canonical
    text = "holds no structure, expected LV, MYO and RV"
    if case.frame_index is not None:
        text = f"frame {case.frame_index} ({case.frame}) {text}; frames are counted from 0"
    return [("label-empty", text)], None
