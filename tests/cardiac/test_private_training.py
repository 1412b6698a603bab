"""Clipping, noise and drawing patients, on which differential privacy rests."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from cardiac.private_training import PrivateTrainer, Slices, clipped, normal
from cardiac.training import training_slices
from common import lora
from common.config import TrainConfig
from common.model import build_unet
from tests.cardiac.samples import heart_volume
from tests.conftest import SMALL, MakeAdapter

PLAIN = TrainConfig(batch_size=8, image_size=32, augment=False, device="cpu")
QUIET = partial(PrivateTrainer, config=PLAIN, learning_rate=0.01, noise_multiplier=1e-9)
"""Trainers whose noise cannot be seen in what they compute."""


@pytest.fixture(scope="module")
def patients() -> list[Slices]:
    return [training_slices([heart_volume(32, slices=2, seed=seed)]) for seed in range(4)]


@pytest.fixture
def model(unet: nn.Module, make_adapter: MakeAdapter) -> nn.Module:
    lora.set_adapter(unet, make_adapter())
    return unet


def gradient(trainer: PrivateTrainer) -> Tensor:
    return torch.cat([p.grad.flatten() for p in trainer.trainable if p.grad is not None])


def after_a_step(model: nn.Module, patients: list[Slices], clip_norm: float) -> Tensor:
    """Return the sum of the patients' clipped gradients, from the gradient that a step leaves."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = QUIET(model, clip_norm=clip_norm, sampling_rate=1.0)
    trainer.train(patients, 1)
    model.load_state_dict(kept)
    return gradient(trainer).double() * len(patients)


def test_noise_is_normal_and_never_the_same() -> None:
    one, other = normal(20_001), normal(20_001)
    assert one.shape == (20_001,)
    assert not torch.equal(one, other)
    assert kstest(one.numpy(), "norm").pvalue > 1e-6
    assert abs(float(torch.corrcoef(torch.stack([one, other]))[0, 1])) < 6 / math.sqrt(20_001)
    halves = torch.stack([one[:10_000], one[10_001:]])  # those of one pair in Box and Muller's way
    assert abs(float(torch.corrcoef(halves)[0, 1])) < 6 / math.sqrt(10_000)


def test_a_longer_gradient_is_scaled_down_and_a_shorter_one_is_kept() -> None:
    short = torch.tensor([0.3, -0.4], dtype=torch.float64)
    assert torch.equal(clipped(short, 0.6), short)
    assert torch.allclose(clipped(short, 0.25), short / 2)
    assert torch.equal(clipped(torch.zeros(2), 1.0), torch.zeros(2))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad: float) -> None:
    assert torch.equal(clipped(torch.tensor([1.0, bad]), 1.0), torch.zeros(2))


def test_no_patient_moves_the_sum_by_more_than_the_clip_norm(
    model: nn.Module, patients: list[Slices]
) -> None:
    clip_norm = 0.01
    everyone = after_a_step(model, patients, clip_norm)
    for left_out in range(len(patients)):
        others = [slices for n, slices in enumerate(patients) if n != left_out]
        change = everyone - after_a_step(model, others, clip_norm)
        assert float(change.norm()) == pytest.approx(clip_norm, rel=1e-3)  # each is clipped


def test_a_broken_image_moves_nothing_by_more_either(
    model: nn.Module, patients: list[Slices]
) -> None:
    broken = [{**item, "image": torch.full_like(item["image"], math.nan)} for item in patients[0]]
    with_it = after_a_step(model, [broken, *patients[1:]], 0.01)
    without = after_a_step(model, patients[1:], 0.01)
    assert torch.allclose(with_it, without, atol=1e-9)


def test_without_clipping_and_noise_the_gradient_is_the_mean_of_the_patients(
    model: nn.Module, patients: list[Slices]
) -> None:
    together = after_a_step(model, patients, 1e3)
    alone = [after_a_step(model, [slices], 1e3) for slices in patients]
    assert torch.allclose(together, torch.stack(alone).sum(0), rtol=1e-4, atol=1e-4)


def test_the_noise_has_the_length_that_the_accountant_counts_on(
    model: nn.Module, patients: list[Slices]
) -> None:
    trainer = PrivateTrainer(
        model, PLAIN, 0.01, noise_multiplier=50.0, clip_norm=0.1, sampling_rate=0.5
    )
    trainer.train(patients, 1)
    total = gradient(trainer) * 0.5 * len(patients)
    count = len(total)
    expected = 50.0 * 0.1
    assert float(total.std()) == pytest.approx(expected, rel=6 / math.sqrt(2 * count))


def test_patients_are_drawn_one_by_one(
    model: nn.Module, patients: list[Slices], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    trainer = QUIET(model, clip_norm=1.0, sampling_rate=0.25)

    def seen(slices: Slices, transform: object) -> Tensor:
        drawn.append(next(n for n, other in enumerate(patients) if other is slices))
        return torch.zeros(sum(p.numel() for p in trainer.trainable), dtype=torch.float64)

    monkeypatch.setattr(trainer, "_gradient", seen)
    trainer.train(patients, 400)
    for patient in range(len(patients)):  # 100 times, within six standard deviations
        assert abs(drawn.count(patient) - 100) < 6 * math.sqrt(400 * 0.25 * 0.75)


def test_only_what_requires_a_gradient_trains_and_two_trainings_differ(
    patients: list[Slices], make_adapter: MakeAdapter
) -> None:
    results = []
    for _ in range(2):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = build_unet(SMALL)
        lora.set_adapter(model, make_adapter())
        lora.train_only(model, ["B"])
        before = {name: value.clone() for name, value in model.state_dict().items()}
        config = replace(PLAIN, augment=True, proximal=0.1)
        trainer = PrivateTrainer(
            model, config, 0.01, noise_multiplier=1.0, clip_norm=1.0, sampling_rate=1.0,
            proximal=0.1,
        )  # fmt: skip
        trainer.train(patients, 2)
        after = model.state_dict()
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        assert changed == {name for name in before if name.endswith("lora_B")}
        results.append(torch.cat([p.detach().flatten() for p in trainer.trainable]))
    assert not torch.equal(*results)
