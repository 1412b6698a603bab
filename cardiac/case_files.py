"""One case: its image and its label read, held against each other, and in the project's labels."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cardiac.datasets.case import Case, fault_of
from cardiac.faults import Fault, FaultError
from cardiac.nifti import Stack, doubt_affine, doubt_intensities, read_stack
from cardiac.view import lps_affine

SHOWN = 4
"""Values named of a label that may hold many."""


@dataclass(frozen=True)
class CaseFiles:
    """What a case's files hold.

    Attributes
    ----------
    image, label
        As stored, with affines into LPS; None where they cannot be read.
    canonical
        (i, j, k) uint8, canonical labels on the image's grid; None where they are not known.
    faults
        What is wrong with them; an error stops training.
    """

    image: Stack | None
    label: Stack | None
    canonical: np.ndarray | None
    faults: list[Fault]


def read_case(case: Case) -> CaseFiles:
    """Read the files of a case past every fault."""
    faults: list[Fault] = []

    def note(path: Path, found: Iterable[tuple[str, str]]) -> None:
        faults.extend(Fault(code, text, case.name, path) for code, text in found)

    image, label = (_read(case, path, faults) for path in (case.image, case.label))
    canonical = None
    if label is not None:
        note(case.label, doubt_affine(label))
    if image is not None and label is not None and image.data.shape != label.data.shape:
        text = f"shape {label.data.shape}, expected the image's {image.data.shape}"
        note(case.label, [("shape-differs", text)])
    if image is not None:
        note(case.image, doubt_affine(image))
        note(case.image, doubt_intensities(image.data))
    if label is not None:
        found, canonical = to_canonical(label.data, case)
        note(case.label, found)
        if image is not None and image.data.shape != label.data.shape:
            canonical = None
    return CaseFiles(image, label, canonical, faults)


def _read(case: Case, path: Path, faults: list[Fault]) -> Stack | None:
    try:
        stack = read_stack(path, case.frame_index)
    except FaultError as error:
        faults.append(fault_of(case, error.fault))
        return None
    return replace(stack, affine=lps_affine(stack.affine, case.axes))


def to_canonical(stored: np.ndarray, case: Case) -> tuple[list[tuple[str, str]], np.ndarray | None]:
    """Map a label's values onto ours, uint8; None, with the fault, where they are not known."""
    values = np.unique(stored)
    known = sorted(case.label_map)
    if not np.isin(values, known).all():
        strange = [f"{value:g}" for value in values if value not in case.label_map]
        shown = ", ".join(strange[:SHOWN]) + (" …" if len(strange) > SHOWN else "")
        whole = np.isfinite(values).all() and (values == np.rint(values)).all()
        code = "label-values" if whole else "label-not-whole"
        return [(code, f"label value {shown} is unknown; expected {known}")], None
    table = np.zeros(max(known) + 1, np.uint8)
    for value, canonical in case.label_map.items():
        table[value] = canonical
    canonical_label: np.ndarray = table[stored.astype(int)]
    if not canonical_label.any():
        which = "" if case.frame_index is None else f"frame {case.frame_index} ({case.frame}) "
        hint = "" if case.frame_index is None else "; frames are counted from 0"
        text = f"{which}holds no structure, expected LV, MYO and RV{hint}"
        return [("label-empty", text)], None
    return [], canonical_label
