"""Who is trained on, validated on and tested on."""

from pathlib import Path

import pytest

from client_app.datasets import Case
from client_app.splits import SPLITS, split_cases, split_patients
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
