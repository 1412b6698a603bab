"""The base model: its shapes, its file and its fingerprint."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common.errors import UserError
from common.labels import STRUCTURES
from common.model import DOWNSAMPLING, build_unet, file_sha256, load_base, save_base, weight_bytes
from tests.conftest import SMALL


@pytest.fixture
def base(tmp_path: Path, unet: nn.Module) -> Path:
    """Return the file of the small U-Net."""
    save_base(unet, tmp_path / "base.safetensors")
    return tmp_path / "base.safetensors"


def refusal(path: Path, features: tuple[int, ...] = SMALL, sha256: str = "") -> str:
    """Return the message with which ``load_base`` refuses a file."""
    with pytest.raises(UserError) as caught:
        load_base(path, features, sha256=sha256)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_slices_become_logits_of_every_label(unet: nn.Module, size: tuple[int, int]) -> None:
    assert unet(torch.rand(2, 1, *size)).shape == (2, 1 + len(STRUCTURES), *size)


def test_the_network_halves_its_input_as_often_as_we_say(unet: nn.Module) -> None:
    sizes = []
    bottom = unet.get_submodule("down_4")
    bottom.register_forward_hook(lambda _module, _input, output: sizes.append(output.shape[-2:]))
    unet(torch.rand(1, 1, 4 * DOWNSAMPLING, 2 * DOWNSAMPLING))
    assert sizes == [(4, 2)]


def test_the_features_are_the_channels_of_the_levels() -> None:
    model = build_unet((2, 3, 4, 5, 6, 7))
    levels = ["conv_0", "down_1", "down_2", "down_3", "down_4", "upcat_1"]
    outputs: dict[str, int] = {}
    for level in levels:
        convolutions = [m for m in model.get_submodule(level).modules() if type(m) is nn.Conv2d]
        outputs[level] = convolutions[-1].out_channels
    assert list(outputs.values()) == [2, 3, 4, 5, 6, 7]


def test_a_file_gives_back_the_model_bit_for_bit_and_frozen(base: Path, unet: nn.Module) -> None:
    loaded = load_base(base, SMALL)
    image = torch.rand(1, 1, 32, 32)
    assert torch.equal(loaded.eval()(image), unet(image))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_the_fingerprint_is_the_sha256_of_the_file(tmp_path: Path, unet: nn.Module) -> None:
    path = tmp_path / "base"
    found = save_base(unet, path)
    assert found == file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    load_base(path, SMALL, sha256=found)
    load_base(path, SMALL, sha256=found.upper())


def test_the_same_weights_have_the_same_fingerprint(tmp_path: Path, unet: nn.Module) -> None:
    first = save_base(unet, tmp_path / "a")
    assert save_base(load_base(tmp_path / "a", SMALL), tmp_path / "b") == first
    unet.get_parameter("final_conv.bias").data[0] += 1e-3
    assert save_base(unet, tmp_path / "c") != first


def test_a_file_of_another_fingerprint_is_refused(base: Path) -> None:
    other = "0" * 64
    assert f"SHA-256 is {file_sha256(base)}, expected {other}" in refusal(base, sha256=other)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "cannot read the file (No such file or directory)" in refusal(tmp_path / "nothing")


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(b"not a model" * 100)
    assert "not a safetensors file" in refusal(tmp_path / "base")


def test_half_a_file_is_refused(base: Path) -> None:
    data = base.read_bytes()
    base.write_bytes(data[: len(data) // 2])
    assert "not a safetensors file" in refusal(base)


def test_other_features_are_refused_with_the_tensor_that_differs(base: Path) -> None:
    message = refusal(base, features=(8, 8, 8, 8, 8, 4))
    assert "does not fit features (8, 8, 8, 8, 8, 4)" in message
    assert "conv_0.conv_0.conv.weight is (4, 1, 3, 3), expected (8, 1, 3, 3)" in message


def test_a_missing_and_an_unknown_tensor_are_refused(base: Path) -> None:
    tensors = load_file(base)
    save_file({**tensors, "extra": torch.ones(1)}, base)
    assert "['extra']" in refusal(base)
    del tensors["final_conv.bias"]
    save_file(tensors, base)
    assert "final_conv.bias is nothing, expected (4,)" in refusal(base)


def test_weight_bytes_are_four_for_every_parameter(unet: nn.Module) -> None:
    assert weight_bytes(unet) == 4 * sum(p.numel() for p in unet.parameters())
