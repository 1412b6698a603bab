"""No message of a coordinator singles out a patient, within a run that the hospital approved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cardiac.splits import split_patients
from client_app.settings import SiteSettings
from client_app.site import Site
from common import messages
from common.adapter import Adapter, Factors
from common.config import RunConfig
from common.labels import RV
from tests.attacks.kit import (
    DISEASES,
    PATIENTS,
    SITE,
    Hospital,
    metrics,
    refusal,
    start,
    write_hospital,
)
from tests.cardiac.samples import TINY, heart_image, heart_labels, write_nifti

CODES = [f"{number:03d}" for number in range(1, PATIENTS + 1)]
CHOICES: list[dict[str, Any]] = [
    *({"validate-on": f"DISEASE={disease}"} for disease in DISEASES),
    {"validate-on": "SUBJECT_CODE=1"},
    {"validate-on": "nonsense"},
    {"train-patients": 1},
    {"train-patients": 29},
    {"val-patients": 1},
    {"pool": True},
]


def alone_in(split: str, hospital_seeds: range = range(1000)) -> int:
    """Return the seed that would leave one patient alone in a split of 8:1:1."""
    small = CODES[:12]  # the first patients, as of a hospital whose others do not matter
    found = (s for s in hospital_seeds if len(split_patients(small, s)[split]) == 1)  # type: ignore[index]
    return next(found)


@pytest.mark.parametrize("choice", CHOICES, ids=lambda c: "-".join(map(str, *c.items())))
def test_no_request_names_the_patients_that_it_is_about(
    hospital: Hospital, choice: dict[str, Any]
) -> None:
    """Keys that choose patients by diagnosis, code or number: declined, with no number."""
    flat = {key.replace("-", "_"): value for key, value in choice.items()}
    for kind in messages.REQUESTS:
        adapter = None if kind == messages.DESCRIBE else start()
        reply = hospital.ask(kind, adapter, **flat)
        assert refusal(reply) == f"{next(iter(choice))} is set, which is for simulations only"
        assert metrics(reply) == {}


@pytest.mark.parametrize(
    "moved",
    [
        {"split_seed": alone_in("val")},
        {"split_seed": alone_in("test")},
        {"seed": 7},
        {"split_by": "DISEASE"},
        {"split_by": "SUBJECT_CODE"},
        {"affine_axes": "RAS"},
    ],
    ids=lambda moved: "-".join(map(str, *moved.items())),
)
def test_no_run_moves_the_split(hospital: Hospital, moved: dict[str, Any]) -> None:
    """A split seed that leaves one patient alone, other columns and axes: nothing changes."""
    described = metrics(hospital.ask(messages.DESCRIBE))
    hospital.new_run()
    assert metrics(hospital.ask(messages.DESCRIBE, **moved)) == described
    # two frames a patient
    assert described["train-cases"] >= 20
    assert min(described["val-cases"], described["test-cases"]) >= 10


def test_a_tested_patient_is_never_the_only_validated_one(patients: Path, tmp_path: Path) -> None:
    """Adapters that would measure a patient alone in validation: they meet five at least."""
    sealed = Hospital(patients, tmp_path, serves="train,validate")
    counts = set()
    for seed in (0, alone_in("val"), alone_in("test")):
        sealed.new_run()
        for label in range(3):
            reply = sealed.ask(
                messages.VALIDATE, pushed(label), server_round=label + 1, split_seed=seed
            )
            if not refusal(reply):
                counts.add(metrics(reply)["num-examples"])
    assert counts
    assert min(counts) >= 10
    sealed.new_run()
    assert metrics(sealed.ask(messages.DESCRIBE))["test-cases"] == 0


def pushed(label: int) -> Adapter:
    """Return an adapter that pushes every layer of the network far to one side."""
    base = start(1)
    layers = {
        name: Factors(f.A, torch.full_like(f.B, label - 1.0)) for name, f in base.layers.items()
    }
    return Adapter(layers, base.scale)


@pytest.mark.parametrize(
    "keys",
    [{"train_patients": 1}, {"alpha_per_rank": 1e-12}, {"learning_rate": 10.0}],
    ids=lambda keys: "-".join(map(str, *keys.items())),
)
def test_the_gradient_of_one_patient_stays(hospital: Hospital, keys: dict[str, Any]) -> None:
    """One step over one patient, made linear by a tiny scale and a huge rate: each is declined."""
    reply = hospital.ask(messages.TRAIN, start(), **keys)
    assert refusal(reply)
    assert messages.ADAPTER not in reply.content


def test_every_step_of_training_is_of_all_training_patients(hospital: Hospital) -> None:
    """One step over all slices, which the ranges allow: it is of ten patients at least."""
    described = metrics(hospital.ask(messages.DESCRIBE))
    seed = alone_in("val")
    hospital.new_run()
    trained = metrics(hospital.ask(messages.TRAIN, start(), split_seed=seed, batch_size=1024))
    assert trained["num-examples"] == described["train-examples"] >= 10 * 2 * 2


def test_a_hospital_below_its_minimum_says_no_number(tmp_path: Path) -> None:
    """A hospital of too few patients: one sentence, and neither counts nor scores."""
    source = write_hospital(tmp_path / "source", patients=19)
    few = Hospital(source, tmp_path / "site")
    for kind in messages.REQUESTS:
        reply = few.ask(kind, None if kind == messages.DESCRIBE else start())
        assert (refusal(reply), metrics(reply)) == (messages.TOO_FEW, {})
    untested = Hospital(source, tmp_path / "site", serves="train,validate")
    assert metrics(untested.ask(messages.DESCRIBE))["val-cases"] == 10


def test_a_structure_of_few_patients_has_no_score(tmp_path: Path) -> None:
    """A structure that few patients have: its Dice and distance would be theirs alone."""
    source = write_hospital(tmp_path / "source")
    settings = SiteSettings(
        SITE, data_dir=str(source / "data"), base_model=str(source / "base.safetensors"),
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    config = settings.applied(RunConfig.from_flat(TINY))
    having = sorted(Site(settings, config).patients("test"))[:1]
    labels = heart_labels(slices=2)
    for code in CODES:
        seen = labels if code in having else np.where(labels == RV, 0, labels)
        for frame in ("ED", "ES"):
            stem = source / "data" / "dataset" / code / f"{code}_SA_{frame}"
            image = heart_image(seen, seed=int(code)).transpose(2, 1, 0).astype(np.float32)
            write_nifti(stem.with_name(f"{stem.name}.nii.gz"), image)
            gt = seen.transpose(2, 1, 0).astype(np.uint8)
            write_nifti(stem.with_name(f"{stem.name}_gt.nii.gz"), gt)
    told = metrics(Hospital(source, tmp_path / "site").ask(messages.TEST, start()))
    hidden = {key for key, value in told.items() if np.isnan(value)}
    assert hidden == {f"{m}.{s}.RV" for m in ("base", "test") for s in ("dice", "hd95_mm")}
