"""What training changes, what it does not, and that it can be repeated and resumed."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cardiac.training import Trainer, training_slices
from common import lora
from common.config import TrainConfig
from common.model import build_unet
from tests.cardiac.samples import heart_volume
from tests.conftest import SMALL, MakeAdapter

CONFIG = TrainConfig(batch_size=4, image_size=32, augment=True, device="cpu")
PLAIN = TrainConfig(batch_size=4, image_size=32, augment=False, device="cpu")
RATE = 0.02


@pytest.fixture(scope="module")
def slices() -> list[dict[str, Tensor]]:
    return training_slices([heart_volume(32, slices=3, seed=seed) for seed in range(2)])


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return set(one) == set(other) and all(torch.equal(one[k], other[k]) for k in one)


def fresh(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = build_unet(SMALL)
    return model


def test_volumes_come_apart_into_all_their_slices() -> None:
    one, other = heart_volume(32, slices=3, seed=0), heart_volume(40, slices=2, seed=1)
    found = training_slices([one, other])
    assert [tuple(item["image"].shape) for item in found] == [(1, 32, 32)] * 3 + [(1, 40, 40)] * 2
    assert torch.equal(found[1]["image"], one["image"][1])
    assert torch.equal(found[4]["label"], other["label"][1])


def test_only_factors_change_and_all_of_them_do(
    unet: nn.Module, make_adapter: MakeAdapter, slices: list[dict[str, Tensor]]
) -> None:
    lora.set_adapter(unet, make_adapter())
    before = weights(unet)
    Trainer(unet, CONFIG, RATE).epoch(slices, seed=1)
    after = weights(unet)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    factors = {name for name in before if name.endswith(("lora_A", "lora_B"))}
    assert len(factors) == 2 * len(lora.target_layers(unet))
    assert changed == factors


def test_the_base_is_left_bit_for_bit(
    unet: nn.Module, make_adapter: MakeAdapter, slices: list[dict[str, Tensor]]
) -> None:
    before = weights(unet)
    lora.set_adapter(unet, make_adapter())
    Trainer(unet, CONFIG, RATE).epoch(slices, seed=1)
    lora.detach(unet)
    assert equal(weights(unet), before)


def test_the_loss_falls_on_a_few_slices(
    unet: nn.Module, make_adapter: MakeAdapter, slices: list[dict[str, Tensor]]
) -> None:
    lora.set_adapter(unet, make_adapter(scale=1.0))
    trainer = Trainer(unet, PLAIN, RATE)
    losses = [trainer.epoch(slices, seed) for seed in range(20)]
    assert losses[-1] < 0.6 * losses[0]


def test_every_slice_is_shown_once_and_progress_is_told(
    unet: nn.Module, make_adapter: MakeAdapter, slices: list[dict[str, Tensor]]
) -> None:
    lora.set_adapter(unet, make_adapter())
    told: list[tuple[int, int, float]] = []
    shown: list[int] = []
    unet.register_forward_pre_hook(lambda _, images: shown.append(len(images[0])))
    loss = Trainer(unet, PLAIN, RATE).epoch(slices, 0, lambda *step: told.append(step))
    assert shown == [4, 2]
    assert [step[:2] for step in told] == [(1, 2), (2, 2)]
    assert loss == pytest.approx(sum(step[2] for step in told) / 2)


def trained_adapter(
    adapter_seed: int, epoch_seed: int, global_seed: int, slices: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    model = fresh(0)
    shapes = lora.layer_shapes(model)
    lora.set_adapter(model, lora.initial_adapter(shapes, 3, 1.0, adapter_seed))
    with torch.random.fork_rng():
        torch.manual_seed(global_seed)
        Trainer(model, CONFIG, RATE).epoch(slices, epoch_seed)
    return dict(lora.get_adapter(model).tensors())


def test_the_same_seed_gives_the_same_adapter_bit_for_bit(slices: list[dict[str, Tensor]]) -> None:
    one = trained_adapter(0, epoch_seed=7, global_seed=1, slices=slices)
    other = trained_adapter(0, epoch_seed=7, global_seed=2, slices=slices)
    assert equal(one, other)


def test_another_seed_gives_another_adapter(slices: list[dict[str, Tensor]]) -> None:
    one = trained_adapter(0, epoch_seed=7, global_seed=1, slices=slices)
    other = trained_adapter(0, epoch_seed=8, global_seed=1, slices=slices)
    assert not equal(one, other)


def rate(trainer: Trainer) -> float:
    return float(trainer.optimiser.param_groups[0]["lr"])


def test_an_annealed_rate_falls_to_zero_and_then_nothing_changes(
    slices: list[dict[str, Tensor]],
) -> None:
    model = fresh(0)
    trainer = Trainer(model, PLAIN, RATE, anneal_steps=6)
    rates = [rate(trainer)]
    for seed in range(3):
        trainer.epoch(slices, seed, lambda *_: rates.append(rate(trainer)))
    assert rates[0] == RATE
    assert rates == sorted(rates, reverse=True)
    assert rate(trainer) == pytest.approx(0, abs=1e-9)
    before = weights(model)
    trainer.epoch(slices, seed=9)
    assert equal(weights(model), before)


def test_a_rate_that_is_not_annealed_stays(slices: list[dict[str, Tensor]]) -> None:
    trainer = Trainer(fresh(0), PLAIN, RATE)
    trainer.epoch(slices, seed=0)
    assert rate(trainer) == RATE


@pytest.mark.parametrize("done", [1, 3])
def test_training_goes_on_from_a_saved_state_to_the_same_weights(
    tmp_path: Path, slices: list[dict[str, Tensor]], done: int
) -> None:
    unbroken = fresh(0)
    trainer = Trainer(unbroken, CONFIG, RATE, anneal_steps=8)
    for epoch in range(4):
        trainer.epoch(slices, epoch)
        if epoch + 1 == done:
            torch.save(trainer.state(), tmp_path / "state")

    resumed = fresh(1)
    trainer = Trainer(resumed, CONFIG, RATE, anneal_steps=8)
    trainer.restore(torch.load(tmp_path / "state", weights_only=True))
    for epoch in range(done, 4):
        trainer.epoch(slices, epoch)
    assert equal(weights(resumed), weights(unbroken))
    assert rate(trainer) == pytest.approx(0, abs=1e-9)
