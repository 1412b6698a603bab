"""Split a site's patients 8:1:1 into train, validation and test, none smaller than allowed."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cardiac.datasets import Case
from common.errors import UserError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


class TooFewPatientsError(UserError):
    """A site has fewer patients than its splits must have; the text counts them."""


@dataclass(frozen=True)
class Cohorts:
    """The fewest patients that each split of a site must have."""

    train: int = 1
    val: int = 1
    test: int = 1
    """0 for a site that tests on nobody, which then trains and validates on all its patients."""

    @property
    def total(self) -> int:
        """The fewest patients that a site must have."""
        return self.train + self.val + self.test

    def words(self) -> str:
        """Return for people how many patients each split needs."""
        return f"{self.train} to train on, {self.val} to validate on, {self.test} to test on"


SMALLEST = Cohorts()


def split_patients(
    patients: Iterable[str], seed: int, least: Cohorts = SMALLEST
) -> dict[Split, list[str]]:
    """Divide patients 8:1:1 by a hash of (seed, patient) in [0, 1).

    A hash below 0.1 means test, below 0.2 validation, otherwise train, so new patients move
    nobody. A split that would be smaller than ``least`` allows gets the patients with the nearest
    hashes. Where nobody is tested on, a hash below 0.1 means validation, otherwise train.

    Raises
    ------
    TooFewPatientsError
        There are fewer patients than ``least`` allows.
    """
    position = {patient: _position(patient, seed) for patient in set(patients)}
    order = sorted(position, key=lambda patient: position[patient])
    if len(order) < least.total:
        raise TooFewPatientsError(
            f"{len(order)} patient(s) cannot be split, expected at least {least.total} "
            f"({least.words()})"
        )
    limits = (0.1, 0.2) if least.test else (0.0, 0.1)
    below = [sum(position[patient] < limit for patient in order) for limit in limits]
    test_end = min(max(below[0], least.test), len(order) - least.train - least.val)
    val_end = min(max(below[1], test_end + least.val), len(order) - least.train)
    return {
        "train": sorted(order[val_end:]),
        "val": sorted(order[test_end:val_end]),
        "test": sorted(order[:test_end]),
    }


def split_cases(
    cases: Sequence[Case], seed: int, least: Cohorts = SMALLEST
) -> dict[Split, list[Case]]:
    """Divide a site's cases as :func:`split_patients` does; a patient's frames stay together."""
    patients = split_patients((case.patient for case in cases), seed, least)
    split_of = {patient: split for split in SPLITS for patient in patients[split]}
    return {split: [case for case in cases if split_of[case.patient] == split] for split in SPLITS}


def restrict(
    splits: Mapping[Split, Sequence[Case]],
    *,
    train_patients: int = 0,
    val_patients: int = 0,
    validate_on: str = "",
    seed: int,
) -> dict[Split, list[Case]]:
    """Keep fewer training and validation patients of a site, and all test patients.

    Patients are kept in the order of their hash, so a larger number keeps the same ones and more.
    This is for simulations: a hospital's split does not hang on what a run asks for.

    Parameters
    ----------
    splits
        What :func:`split_cases` returned.
    train_patients, val_patients
        Most patients to keep; 0 for all.
    validate_on
        ``COLUMN=VALUE`` keeps only validation patients with this value; empty for all. Upper and
        lower case of the column do not matter.
    seed
        Seed that the patients were split by.

    Raises
    ------
    UserError
        ``validate_on`` has another form or names an unknown column, or keeps nobody.
    """
    validated = _having(splits["val"], validate_on) if validate_on else splits["val"]
    return {
        "train": _first(splits["train"], train_patients, seed),
        "val": _first(validated, val_patients, seed),
        "test": list(splits["test"]),
    }


def _having(cases: Sequence[Case], wanted: str) -> list[Case]:
    column, equals, value = (part.strip() for part in wanted.partition("="))
    if not (column and equals and value):
        raise UserError(f"validate-on: found {wanted!r}, expected COLUMN=VALUE")
    for case in cases:
        if column not in case.info:
            known = ", ".join(sorted(case.info)) or "none"
            text = f"validate-on: no column {column!r} (patient {case.patient}); found {known}"
            raise UserError(text)
    kept = [case for case in cases if case.info[column] == value]
    if not kept:
        found = ", ".join(sorted({case.info[column] for case in cases})) or "nobody"
        text = f"validate-on: no validation patient has {column} {value!r}; found {found}"
        raise UserError(text)
    return kept


def _first(cases: Sequence[Case], patients: int, seed: int) -> list[Case]:
    """Return the cases of the first ``patients`` patients by hash; 0 for all."""
    order = sorted({case.patient for case in cases}, key=lambda name: _position(name, seed))
    kept = set(order[:patients] if patients else order)
    return [case for case in cases if case.patient in kept]


def _position(patient: str, seed: int) -> float:
    """Return the patient's hash as a number in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\x1f{patient}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
