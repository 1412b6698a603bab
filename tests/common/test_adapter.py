"""The adapter: its algebra, its file, and the files and tensors that are refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from common.adapter import Adapter, load_adapter, save_adapter
from common.errors import UserError
from common.lora import layer_shapes
from tests.conftest import MakeAdapter


def refusal(path: Path) -> str:
    """Return the message with which ``load_adapter`` refuses a file."""
    with pytest.raises(UserError) as caught:
        load_adapter(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


def tensors(**changes: Tensor | None) -> dict[str, Tensor]:
    """Return a valid adapter of one layer and rank 2, changed (None takes a tensor out)."""
    valid: dict[str, Tensor | None] = {"lora_A": torch.ones(2, 9), "lora_B": torch.ones(4, 2)}
    return {f"conv.{name}": t for name, t in {**valid, **changes}.items() if t is not None}


def test_a_file_gives_back_the_adapter_bit_for_bit(
    tmp_path: Path, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter(rank=3, scale=0.1 + 0.2)
    save_adapter(adapter, tmp_path / "new" / "adapter.safetensors", {"round": "7"})
    loaded, notes = load_adapter(tmp_path / "new" / "adapter.safetensors")
    assert loaded.scale == adapter.scale
    assert notes == {"round": "7"}
    assert list(loaded.tensors()) == list(adapter.tensors())
    for name, value in adapter.tensors().items():
        assert torch.equal(loaded.tensors()[name], value)


def test_notes_do_not_change_the_scale(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    save_adapter(make_adapter(scale=0.5), tmp_path / "a", {"scale": "4"})
    assert load_adapter(tmp_path / "a")[0].scale == 0.5


def test_truncating_keeps_the_first_components(make_adapter: MakeAdapter) -> None:
    adapter = make_adapter(rank=5, scale=2.0)
    short = adapter.truncated(2)
    assert (short.rank, short.scale) == (2, 2.0)
    for name, (A, B) in adapter.layers.items():
        expected = 2.0 * B[:, :2] @ A[:2]
        torch.testing.assert_close(short.delta(name), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rank", [3, 4])
def test_truncating_to_a_rank_that_is_not_below_our_own_changes_nothing(
    make_adapter: MakeAdapter, rank: int
) -> None:
    adapter = make_adapter(rank=3)
    assert adapter.truncated(rank) is adapter


def test_a_truncated_adapter_can_be_saved(tmp_path: Path, make_adapter: MakeAdapter) -> None:
    short = make_adapter(rank=4).truncated(1)
    save_adapter(short, tmp_path / "a")
    loaded, _ = load_adapter(tmp_path / "a")
    assert all(torch.equal(loaded.delta(name), short.delta(name)) for name in short.layers)


def test_the_payload_is_four_bytes_for_every_number_of_the_factors(
    unet: nn.Module, make_adapter: MakeAdapter
) -> None:
    numbers = sum(3 * (c_out + fan_in) for c_out, fan_in in layer_shapes(unet).values())
    assert make_adapter(rank=3).payload_bytes == 4 * numbers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (tensors(lora_B=None), "conv.lora_B is missing"),
        (tensors(lora_A=None), "conv.lora_A is missing"),
        (tensors(lora_B=torch.ones(4, 3)), r"expected one rank in all layers, found \[2, 3\]"),
        (tensors(lora_A=torch.ones(2, 1, 3, 3)), r"unexpected tensor conv.lora_A of shape"),
        (tensors(bias=torch.ones(4, 2)), r"unexpected tensor conv.bias of shape \(4, 2\)"),
        ({}, "expected one rank in all layers"),
    ],
)
def test_tensors_that_are_no_adapter_are_refused(
    tmp_path: Path, given: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Adapter.from_tensors(given, 1.0)
    save_file(given, tmp_path / "a", metadata={"scale": "1.0"})
    with pytest.raises(UserError, match=message):
        load_adapter(tmp_path / "a")


def test_layers_of_two_ranks_are_refused() -> None:
    two = {**tensors(), "last.lora_A": torch.ones(1, 9), "last.lora_B": torch.ones(4, 1)}
    with pytest.raises(ValueError, match=r"found \[1, 2\]"):
        Adapter.from_tensors(two, 1.0)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"conv": (4, 9), "last": (4, 9)}, r"layer last is missing \(1 in all\)"),
        ({"last": (4, 9)}, "layer last is missing"),
        ({}, "layer conv is not in the model"),
        ({"conv": (9, 4)}, r"layer conv: shape \(4, 9\), expected \(9, 4\)"),
    ],
)
def test_an_adapter_that_does_not_fit_a_model_says_where(
    shapes: dict[str, tuple[int, int]], message: str
) -> None:
    adapter = Adapter.from_tensors(tensors(), 1.0)
    adapter.check_fits({"conv": (4, 9)})
    with pytest.raises(ValueError, match=message):
        adapter.check_fits(shapes)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nothing")


def test_a_folder_is_not_an_adapter_file(tmp_path: Path) -> None:
    assert "cannot read the file" in refusal(tmp_path)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("an adapter, honestly")
    assert "not an adapter file" in refusal(tmp_path / "notes.txt")


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    tmp_path: Path, make_adapter: MakeAdapter, kept: float
) -> None:
    path = tmp_path / "a"
    save_adapter(make_adapter(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    assert "not an adapter file" in refusal(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"scale": "one"}])
def test_a_file_without_a_scale_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(tensors(), tmp_path / "a", metadata=metadata)
    assert "not an adapter file" in refusal(tmp_path / "a")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    bad = torch.ones(4, 2)
    bad[3, 1] = value
    save_file(tensors(lora_B=bad), tmp_path / "a", metadata={"scale": "1.0"})
    assert "values that are not finite" in refusal(tmp_path / "a")


def test_a_scale_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    save_file(tensors(), tmp_path / "a", metadata={"scale": "NaN"})
    assert "not finite" in refusal(tmp_path / "a")
