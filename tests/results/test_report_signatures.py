"""Every signature fires on a run made to show it, and none on a calm one."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from results.report.patients import Patients
from results.report.signatures import find, unchecked
from results.run_reader import RunFiles
from tests.results.report_samples import CALM, make_patients, make_run

GAINS = {"GE": 0.2, "Siemens": 0.25}
OWN = {"GE": {"GE": 0.80, "Siemens": 0.7}, "Siemens": {"GE": 0.7, "Siemens": 0.85}}
STEADY = [(t, 0.7 + 0.01 * t, 0.6 + 0.005 * t) for t in (2, 4, 6, 8, 10)]

Made = tuple[RunFiles, Patients | None]


def calm() -> Made:
    return make_run(gains=GAINS), make_patients(GAINS, OWN, STEADY)


def edited(edit: Callable[[list[dict[str, Any]]], None]) -> Made:
    """Return the calm run with its history changed."""
    run, patients = calm()
    history = copy.deepcopy(list(run.history))
    edit(history)  # type: ignore[arg-type]
    return replace(run, history=history), patients


def swinging() -> Made:
    wave = [0.6, 0.70, 0.78, 0.71, 0.79, 0.70, 0.80, 0.72, 0.79, 0.73, 0.81]
    return make_run({**CALM, "GE": wave}, gains=GAINS), None


def idle() -> Made:
    flat = [0.6, 0.70, 0.73, 0.75, 0.77, 0.80, 0.80, 0.80, 0.80, 0.80, 0.80]
    return make_run({"GE": flat, "Siemens": flat}, gains=GAINS), None


def own_adapters_better() -> Made:
    def edit(history: list[dict[str, Any]]) -> None:
        for line in history[1:]:
            line["sites"]["GE"]["local"] = line["sites"]["GE"]["validation"] + 0.03

    return edited(edit)


def own_adapters_better_on_test_patients() -> Made:
    run, _ = calm()
    return run, make_patients(GAINS, {**OWN, "GE": {"GE": 0.9, "Siemens": 0.7}}, STEADY)


def overfitting() -> Made:
    drift = [(t, 0.7 + 0.01 * t, 0.6 - 0.003 * t) for t in (2, 4, 6, 8, 10)]
    return calm()[0], make_patients(GAINS, OWN, drift)


def refused_twice() -> Made:
    def edit(history: list[dict[str, Any]]) -> None:
        for line in history[4:6]:
            line["refused"] = [{"site": "GE", "phase": "train", "reason": "no answer"}]

    return edited(edit)


def never_joined() -> Made:
    def edit(history: list[dict[str, Any]]) -> None:
        history[0]["refused"] = [{"site": "Canon", "phase": "join", "reason": "other base"}]

    return edited(edit)


def full_weights() -> Made:
    def edit(history: list[dict[str, Any]]) -> None:
        history[5]["sites"]["GE"]["bytes_up"] = 31_000_000

    return edited(edit)


def always_penalised() -> Made:
    return make_run(penalties=dict.fromkeys(range(1, 11), ("GE",)), gains=GAINS), None


TROUBLE: dict[str, tuple[Callable[[], Made], str, str]] = {
    "swing": (swinging, "swings from round to round", "GE: median step 0.08"),
    "idle end": (idle, "did not improve in the last third", "0.8000 in round 5"),
    "own, validation": (own_adapters_better, "worse than a site's own", "+0.030 on its validation"),
    "own, test": (
        own_adapters_better_on_test_patients, "worse than a site's own", "+0.100 on its test",
    ),
    "overfit": (overfitting, "adapters overfit", "from 0.594 to 0.570"),
    "no gain": (
        lambda: (make_run(gains={"GE": 0.0, "Siemens": -0.2}), None),
        "No site gained", "Siemens −0.2000",
    ),
    "a loser": (
        lambda: (make_run(gains={"GE": 0.2, "Siemens": -0.2}), None),
        "Siemens lost while the other gained", "−0.2000",
    ),
    "always": (always_penalised, "in nearly every round", "10 of 10"),
    "never": (lambda: (make_run(penalties={}, gains=GAINS), None), "ever penalised", "0 of 10"),
    "refused": (refused_twice, "refused or silent repeatedly", "GE left out in rounds 4 and 5"),
    "never joined": (never_joined, "refused or silent repeatedly", "Canon never trained"),
    "traffic": (full_weights, "does not fit adapters alone", "round 5: 31,000,000 bytes up"),
}  # fmt: skip


def test_a_calm_run_shows_nothing() -> None:
    run, patients = calm()
    assert find(run, patients) == []
    assert find(run) == []


@pytest.mark.parametrize(("made", "title", "evidence"), TROUBLE.values(), ids=TROUBLE)
def test_trouble_is_found_with_its_numbers_and_nothing_else(
    made: Callable[[], Made], title: str, evidence: str
) -> None:
    (finding,) = find(*made())
    assert title in finding.title
    assert evidence in finding.evidence
    assert finding.advice


def test_little_is_said_of_a_short_or_unfinished_run() -> None:
    short = {site: values[:3] for site, values in CALM.items()}
    assert find(make_run(short, penalties={})) == []
    assert find(make_run({site: values[:1] for site, values in CALM.items()})) == []
    assert find(replace(make_run(), history=[])) == []


def test_without_lambda_no_penalty_is_missed() -> None:
    assert find(make_run(penalties={}, gains=GAINS, lambda_0=0.0)) == []


def test_a_steep_rise_and_small_noise_are_no_swing() -> None:
    noise = [0.6, 0.7, *(0.72 + 0.004 * (t % 2) + 0.002 * t for t in range(9))]
    assert find(make_run({**CALM, "GE": noise}, gains=GAINS)) == []


def test_traffic_is_held_against_each_sites_own_rank() -> None:
    run, patients = edited(lambda history: history[5]["sites"]["GE"].update(rank=2))
    (finding,) = find(run, patients)
    assert f"expected {2 * run.bytes_per_rank:,} a message" in finding.evidence


def test_a_silent_site_was_sent_something_and_gave_nothing() -> None:
    run, patients = edited(lambda history: history[5]["sites"]["GE"].update(bytes_up=0))
    assert find(run, patients) == []


def test_what_cannot_be_looked_for_is_said() -> None:
    run, patients = calm()
    assert unchecked(run, patients) == []
    told = " ".join(unchecked(make_run({site: values[:3] for site, values in CALM.items()})))
    for word in ("no test scores", "own adapters", "overfit", "fewer than 6 rounds"):
        assert word in told
