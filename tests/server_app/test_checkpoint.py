"""A checkpoint gives every method's state back bit for bit."""

from pathlib import Path

import pytest
import torch

from common.adapter import Adapter, load_adapter, save_adapter
from common.errors import UserError
from common.weights import Weights
from server_app.checkpoint import load_checkpoint, save_checkpoint
from strategies.state import RunState
from tests.conftest import adapter_of
from tests.strategies.fakes import random_adapter, same_bits


def adapter(seed: int, rank: int = 3) -> Adapter:
    return Adapter(random_adapter(seed, rank).layers, 0.25)


def folded() -> dict[str, torch.Tensor]:
    return {name: torch.randn(7, 5) for name in ("down.conv", "head", "up.conv")}


STATES = {
    "an adapter": RunState(adapter(0), 2, {"GE": 1 / 3}, {"GE": 4}),
    "weights": RunState(Weights({"a.weight": torch.randn(2, 3), "b": torch.randn(4)}), 1),
    "weights of the base": RunState(Weights()),
    "folded": RunState(adapter(0), 3, fold=adapter(1, 9), folded=folded()),
    "personal": RunState(adapter(0), 1, personal={"St. Anna / A": adapter(2), "GE": adapter(3)}),
    "held": RunState(adapter(0), 4, held={"GE": 4, "Philips": 2}),
    "rating": RunState(adapter(0), 1, rating={"calm-rounds": 2, "shares": {"GE": 0.25}}),
}


@pytest.mark.parametrize("what", STATES)
def test_a_state_comes_back(tmp_path: Path, what: str) -> None:
    state, path = STATES[what], tmp_path / "checkpoint.safetensors"
    save_checkpoint(state, path)
    back = load_checkpoint(path)
    assert (back.server_round, back.previous, back.ranks, back.rating, back.folds, back.held) == (
        state.server_round,
        state.previous,
        state.ranks,
        state.rating,
        state.folds,
        state.held,
    )
    assert back.run_id == state.run_id
    if isinstance(state.parameters, Weights):
        assert isinstance(back.parameters, Weights)
        assert back.parameters.tensors().keys() == state.parameters.tensors().keys()
        for name, value in state.parameters.values.items():
            assert torch.equal(back.parameters.values[name], value)
    else:
        assert same_bits(back.parameters, state.parameters)
    assert (back.fold is None) == (state.fold is None)
    if state.fold is not None and back.fold is not None:
        assert same_bits(back.fold, state.fold)
    assert (back.folded or {}).keys() == (state.folded or {}).keys()
    for name, value in (state.folded or {}).items():
        assert torch.equal((back.folded or {})[name], value)
    assert back.personal.keys() == state.personal.keys()
    for site, own in state.personal.items():
        assert same_bits(back.personal[site], own)


def test_a_plain_checkpoint_is_an_adapter_file(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(STATES["an adapter"], path)
    found, notes = load_adapter(path)
    assert same_bits(found, adapter_of(STATES["an adapter"].parameters))
    assert notes["round"] == "2"


@pytest.mark.parametrize("damage", [b"", b"x" * 40])
def test_a_broken_file_is_named(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"checkpoint\.safetensors: not a checkpoint"):
        load_checkpoint(path)


def test_an_adapter_file_is_no_checkpoint(tmp_path: Path) -> None:
    save_adapter(adapter(0), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "a.safetensors")


def test_every_new_run_has_an_id_of_its_own() -> None:
    assert RunState(adapter(0)).run_id != RunState(adapter(0)).run_id
