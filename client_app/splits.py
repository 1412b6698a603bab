"""Train, validation and test patients of a site: 8:1:1, and never moved by newcomers."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

from client_app.datasets import Case
from common.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
MIN_PATIENTS = 3


def split_patients(patients: Iterable[str], seed: int) -> dict[Split, list[str]]:
    """Divide patients 8:1:1 by a hash of (seed, patient).

    Each patient falls below 0.1 (test), below 0.2 (validation) or above (train) on their own, so
    adding patients moves nobody. Where a small site would be left with an empty split, the
    patient nearest to it by hash fills the place.

    Raises
    ------
    UserError
        There are fewer than three patients, too few for three splits.
    """
    position = {patient: _position(patient, seed) for patient in set(patients)}
    order = sorted(position, key=lambda patient: position[patient])
    if len(order) < MIN_PATIENTS:
        raise UserError(
            f"{len(order)} patient(s) cannot be split into train, validation and test; "
            f"expected at least {MIN_PATIENTS}"
        )
    below = [sum(position[patient] < limit for patient in order) for limit in (0.1, 0.2)]
    test_end = min(max(below[0], 1), len(order) - 2)
    val_end = min(max(below[1], test_end + 1), len(order) - 1)
    return {
        "train": sorted(order[val_end:]),
        "val": sorted(order[test_end:val_end]),
        "test": sorted(order[:test_end]),
    }


def split_cases(cases: Sequence[Case], seed: int) -> dict[Split, list[Case]]:
    """Divide a site's cases by patient, so that a patient's frames stay together.

    Raises
    ------
    UserError
        See :func:`split_patients`.
    """
    patients = split_patients((case.patient for case in cases), seed)
    return {
        split: [case for case in cases if case.patient in set(patients[split])] for split in SPLITS
    }


def _position(patient: str, seed: int) -> float:
    """Map a patient to [0, 1), evenly and for good."""
    digest = hashlib.sha256(f"{seed}\x1f{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
