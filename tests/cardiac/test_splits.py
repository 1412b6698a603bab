"""Patients are split into train, validation and test, and restricted."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cardiac.datasets import Case
from cardiac.splits import (
    SPLITS,
    Cohorts,
    Split,
    TooFewPatientsError,
    restrict,
    split_cases,
    split_patients,
)
from common.errors import UserError

SEEDS = range(200)


def patients(count: int, first: int = 1) -> list[str]:
    return [f"{number:03d}" for number in range(first, first + count)]


def test_shares_are_eight_to_one_to_one() -> None:
    split = split_patients(patients(2000), seed=0)
    four_sigma = 4 * (2000 * 0.1 * 0.9) ** 0.5
    assert abs(len(split["val"]) - 200) < four_sigma
    assert abs(len(split["test"]) - 200) < four_sigma


@pytest.mark.parametrize("count", [3, 4, 5, 6, 17, 300])
def test_splits_are_disjoint_and_complete(count: int) -> None:
    everyone = patients(count)
    for seed in SEEDS:
        split = split_patients(everyone, seed)
        assert sorted(patient for name in SPLITS for patient in split[name]) == everyone


@pytest.mark.parametrize("count", [3, 4, 5])
def test_no_split_of_a_small_site_is_empty(count: int) -> None:
    # among three patients, all three hash below 0.1 once in a thousand seeds
    seeds = range(2000) if count == 3 else SEEDS
    empty = [
        (seed, name)
        for seed in seeds
        for name, members in split_patients(patients(count), seed).items()
        if not members
    ]
    assert empty == []


@pytest.mark.parametrize("first", [-500, 100, 2000])
def test_newcomers_move_nobody_wherever_they_come(first: int) -> None:
    old = patients(200, first=1000)
    newcomers = [f"{code:05d}" for code in range(first, first + 150)]
    mixed = sorted({*old, *newcomers, *(f"{name}b" for name in old[::7])})
    for seed in range(20):
        before, after = split_patients(old, seed), split_patients(mixed, seed)
        for name in SPLITS:
            assert set(before[name]) == set(after[name]) & set(old)


def test_the_order_of_patients_and_their_repetition_do_not_matter() -> None:
    everyone = patients(30)
    expected = split_patients(everyone, seed=5)
    assert split_patients(reversed(everyone), seed=5) == expected
    assert split_patients(everyone * 2, seed=5) == expected


def test_seeds_differ() -> None:
    tests = {tuple(split_patients(patients(100), seed)["test"]) for seed in range(20)}
    assert len(tests) == 20


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_patients_are_refused(count: int) -> None:
    with pytest.raises(UserError, match=rf"^{count} patient.*expected at least 3"):
        split_patients(patients(count), seed=0)


HOSPITAL = Cohorts(train=10, val=5, test=5)


@pytest.mark.parametrize("count", [20, 21, 24, 48, 300])
def test_no_split_is_smaller_than_a_hospital_allows(count: int) -> None:
    everyone = patients(count)
    for seed in SEEDS:
        split = split_patients(everyone, seed, HOSPITAL)
        assert sorted(patient for name in SPLITS for patient in split[name]) == everyone
        assert len(split["train"]) >= 10
        assert len(split["val"]) >= 5
        assert len(split["test"]) >= 5


def test_a_large_hospital_is_split_as_a_simulated_site_is() -> None:
    everyone = patients(400)
    assert split_patients(everyone, 2, HOSPITAL) == split_patients(everyone, 2)


def test_where_nobody_is_tested_on_all_patients_train_or_validate() -> None:
    untested = Cohorts(train=10, val=5, test=0)
    for count in (15, 200):
        split = split_patients(patients(count), 1, untested)
        assert split["test"] == []
        assert len(split["train"]) + len(split["val"]) == count
        assert len(split["val"]) >= 5
    assert 5 < len(split["val"]) < 40


def test_a_hospital_of_too_few_patients_hears_how_many_are_needed() -> None:
    words = r"^19 patient\(s\) .* at least 20 \(10 to train on, 5 to validate on, 5 to test on\)"
    with pytest.raises(TooFewPatientsError, match=words):
        split_patients(patients(19), 0, HOSPITAL)


def test_frames_of_a_patient_stay_together() -> None:
    nowhere = Path("nowhere")
    cases = [
        Case(patient, frame, nowhere, nowhere, {}, {})
        for frame in ("ED", "ES")
        for patient in patients(40)
    ]
    split = split_cases(cases, seed=1)
    assert sorted(case.name for name in SPLITS for case in split[name]) == sorted(
        case.name for case in cases
    )
    for name in SPLITS:
        members = sorted(case.patient for case in split[name])
        assert members[::2] == members[1::2] == sorted(set(members))


def site_splits(count: int = 60) -> dict[Split, list[Case]]:
    """Return the split of a site, seed 3, every third of whose patients has another disease."""
    nowhere = Path("nowhere")
    cases = [
        Case(patient, frame, nowhere, nowhere, {}, {"Disease": ("RV", "NOR", "NOR")[n % 3]})
        for n, patient in enumerate(patients(count))
        for frame in ("ED", "ES")
    ]
    return split_cases(cases, seed=3)


def members(cases: Sequence[Case]) -> set[str]:
    return {case.patient for case in cases}


def test_without_a_limit_everyone_stays() -> None:
    splits = site_splits()
    assert restrict(splits, seed=3) == splits


def test_few_training_patients_are_among_more_and_keep_their_frames() -> None:
    splits = site_splits()
    kept = [restrict(splits, train_patients=n, seed=3) for n in (3, 6, 1000)]
    three, six, all_of_them = (members(k["train"]) for k in kept)
    assert (len(three), len(six)) == (3, 6)
    assert three < six < all_of_them == members(splits["train"])
    assert len(kept[0]["train"]) == 6
    assert all(k["val"] == splits["val"] and k["test"] == splits["test"] for k in kept)


def test_who_stays_hangs_on_the_patients_and_the_seed_alone() -> None:
    splits = site_splits()
    turned = {split: list(reversed(cases)) for split, cases in splits.items()}
    few = members(restrict(splits, train_patients=5, seed=3)["train"])
    assert members(restrict(turned, train_patients=5, seed=3)["train"]) == few
    assert members(restrict(splits, train_patients=5, seed=4)["train"]) != few


def test_few_validation_patients_are_kept_after_their_value() -> None:
    splits = site_splits(200)
    wanted = {case.patient for case in splits["val"] if case.info["Disease"] == "RV"}
    every = restrict(splits, validate_on="disease = RV", seed=3)
    assert members(every["val"]) == wanted < members(splits["val"])
    two = restrict(splits, validate_on="Disease=RV", val_patients=2, seed=3)
    assert len(members(two["val"])) == 2
    assert members(two["val"]) < wanted
    assert two["train"] == splits["train"]


@pytest.mark.parametrize(
    ("validate_on", "message"),
    [
        ("RV", "^validate-on: found 'RV', expected COLUMN=VALUE"),
        ("Disease=", "^validate-on: found 'Disease=', expected COLUMN=VALUE"),
        ("VENDOR=GE", r"^validate-on: no column 'VENDOR' \(patient \d+\); found Disease"),
        ("Disease=FLU", "^validate-on: no validation patient has Disease 'FLU'; found NOR, RV"),
    ],
)
def test_a_validation_that_leaves_nobody_is_refused(validate_on: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        restrict(site_splits(200), validate_on=validate_on, seed=3)
