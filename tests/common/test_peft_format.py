"""PEFT reads what we write, and we read what PEFT writes."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common import lora
from common.adapter import Adapter, Factors
from common.errors import UserError
from common.peft_format import CONFIG_FILE, TENSOR_FILE, load_peft, save_peft
from tests.conftest import MakeAdapter

KEY = "base_model.model.final_conv.lora_{}.weight"


@pytest.fixture
def folder(tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter) -> Path:
    """Return the folder of a valid adapter of rank 3 and alpha 1.5."""
    save_peft(make_adapter(rank=3, scale=0.5), unet, tmp_path / "peft")
    return tmp_path / "peft"


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps({**config, **changes}))


def edit_tensors(folder: Path, **changes: Tensor) -> None:
    """Change tensors of ``final_conv``, named by their factor (A or B)."""
    changed = {KEY.format(factor): value for factor, value in changes.items()}
    save_file({**load_file(folder / TENSOR_FILE), **changed}, folder / TENSOR_FILE)


def refusal(folder: Path, file: str) -> str:
    """Return what ``load_peft`` says about a file of the folder."""
    with pytest.raises(UserError) as caught:
        load_peft(folder)
    message = str(caught.value)
    assert message.startswith(f"{folder / file}: ")
    return message


def peft_model(base: nn.Module, **options: Any) -> Any:
    """Return PEFT's model on a copy of ``base``, with no factor left at zero."""
    config = peft.LoraConfig(target_modules=list(lora.target_layers(base)), **options)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    generator = torch.Generator().manual_seed(5)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.copy_(0.3 * torch.randn(value.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(("rank", "scale"), [(1, 1.0), (3, 0.5), (4, 0.3), (16, 2.0)])
def test_peft_gives_the_same_output_with_our_folder(
    tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter, rank: int, scale: float
) -> None:
    adapter = make_adapter(rank, scale)
    save_peft(adapter, unet, tmp_path)
    base, image = unet.double(), torch.rand(1, 1, 32, 32, dtype=torch.float64)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    lora.set_adapter(base, adapter)
    torch.testing.assert_close(theirs(image), base(image), rtol=1e-10, atol=1e-12)


def test_we_give_the_same_output_with_a_folder_of_peft(tmp_path: Path, unet: nn.Module) -> None:
    theirs = peft_model(unet.double(), r=4, lora_alpha=6)
    theirs.save_pretrained(tmp_path)
    adapter = load_peft(tmp_path)
    assert (adapter.rank, adapter.scale) == (4, 1.5)
    assert {value.dtype for value in adapter.tensors().values()} == {torch.float32}
    image = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    lora.set_adapter(unet, adapter)
    torch.testing.assert_close(unet(image), theirs(image), rtol=1e-10, atol=1e-12)


def test_peft_saves_again_what_we_saved(tmp_path: Path, unet: nn.Module, folder: Path) -> None:
    peft.PeftModel.from_pretrained(copy.deepcopy(unet), folder).save_pretrained(tmp_path / "again")
    ours, theirs = (load_file(path / TENSOR_FILE) for path in (folder, tmp_path / "again"))
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(("rank", "scale"), [(1, 1.0), (5, 0.5), (3, 1 / 3), (49, 1 / 49)])
def test_a_round_trip_is_exact(
    tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter, rank: int, scale: float
) -> None:
    adapter = make_adapter(rank, scale)
    save_peft(adapter, unet, tmp_path)
    loaded = load_peft(tmp_path)
    assert loaded.scale == adapter.scale
    assert list(loaded.tensors()) == list(adapter.tensors())
    for name, value in adapter.tensors().items():
        assert torch.equal(loaded.tensors()[name], value)


def test_a_whole_alpha_is_written_as_peft_types_it(
    tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter
) -> None:
    assert 29 / 7 * 7 != 29
    save_peft(make_adapter(rank=7, scale=29 / 7), unet, tmp_path)
    alpha = json.loads((tmp_path / CONFIG_FILE).read_text())["lora_alpha"]
    assert (type(alpha), alpha) == (int, 29)


def test_an_attached_model_and_factors_in_any_memory_order_can_be_saved(
    tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter
) -> None:
    plain = make_adapter(rank=2, scale=0.5)
    lora.set_adapter(unet, plain)
    turned = {
        name: Factors(*(value.T.contiguous().T for value in factors))
        for name, factors in plain.layers.items()
    }
    save_peft(Adapter(turned, 0.5), unet, tmp_path)
    loaded = load_peft(tmp_path).tensors()
    assert all(torch.equal(loaded[name], value) for name, value in plain.tensors().items())


def test_the_adapter_of_another_model_is_not_written(
    tmp_path: Path, unet: nn.Module, make_adapter: MakeAdapter
) -> None:
    layers = dict(make_adapter().layers)
    del layers["final_conv"]
    with pytest.raises(ValueError, match="final_conv is missing"):
        save_peft(Adapter(layers, 1.0), unet, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", [CONFIG_FILE, TENSOR_FILE])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert "No such file" in refusal(folder, file)


@pytest.mark.parametrize(
    ("text", "found"), [("{", "not JSON"), ("", "not JSON"), ("[1]", "found a list")]
)
def test_a_configuration_that_is_no_json_object_is_refused(
    folder: Path, text: str, found: str
) -> None:
    (folder / CONFIG_FILE).write_text(text)
    assert found in refusal(folder, CONFIG_FILE)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("use_dora", True),
        ("use_rslora", True),
        ("use_qalora", True),
        ("lora_bias", True),
        ("rank_pattern", {"final_conv": 2}),
        ("alpha_pattern", {"final_conv": 2}),
        ("layer_replication", [[0, 2]]),
        ("modules_to_save", ["final_conv"]),
        ("r", 0),
        ("r", "3"),
        ("r", True),
        ("lora_alpha", None),
        ("lora_alpha", True),
        ("lora_alpha", "3"),
        ("lora_alpha", math.nan),
    ],
)
def test_a_configuration_that_is_not_plain_lora_is_refused(
    folder: Path, key: str, value: Any
) -> None:
    edit_config(folder, **{key: value})
    assert f"{key}: found {value!r}, expected" in refusal(folder, CONFIG_FILE)


def test_options_of_training_and_unknown_keys_that_are_empty_do_no_harm(folder: Path) -> None:
    expected = load_peft(folder)
    edit_config(folder, lora_dropout=0.1, use_rslora=None, rank_pattern={}, a_later_key=None)
    assert load_peft(folder).scale == expected.scale


@pytest.mark.filterwarnings("ignore:.*lora_B.bias")  # PEFT's, about a bias it should not mind
@pytest.mark.parametrize("option", [{"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}])
def test_the_variants_that_peft_itself_writes_are_refused(
    tmp_path: Path, unet: nn.Module, option: dict[str, bool]
) -> None:
    peft_model(unet, r=2, **option).save_pretrained(tmp_path)
    assert f"{next(iter(option))}: found True" in refusal(tmp_path, CONFIG_FILE)


def test_the_configuration_of_another_rank_is_refused(folder: Path) -> None:
    edit_config(folder, r=4)
    assert "found rank 3, expected r = 4" in refusal(folder, TENSOR_FILE)


def test_a_file_that_is_not_safetensors_is_refused(folder: Path) -> None:
    (folder / TENSOR_FILE).write_bytes((folder / TENSOR_FILE).read_bytes()[:-1])
    assert "not a safetensors file" in refusal(folder, TENSOR_FILE)


@pytest.mark.parametrize(
    ("factor", "value"),
    [
        ("A", torch.ones(3, 4)),  # as of a Linear layer
        ("B", torch.ones(4, 3)),
        ("B", torch.ones(4, 3, 3, 3)),
        ("A", torch.ones(3, 4, 1, 1, dtype=torch.int32)),
        ("C", torch.ones(3, 4, 1, 1)),
        ("magnitude_vector", torch.ones(4)),
    ],
)
def test_a_tensor_that_is_no_factor_of_a_convolution_is_refused(
    folder: Path, factor: str, value: Tensor
) -> None:
    edit_tensors(folder, **{factor: value})
    message = refusal(folder, TENSOR_FILE)
    assert f"found {KEY.format(factor)} ({value.dtype}, {tuple(value.shape)}), expected" in message


def test_a_factor_without_its_partner_is_refused(folder: Path) -> None:
    tensors = load_file(folder / TENSOR_FILE)
    del tensors[KEY.format("B")]
    save_file(tensors, folder / TENSOR_FILE)
    assert "final_conv.lora_B is missing" in refusal(folder, TENSOR_FILE)


def test_a_layer_of_another_rank_is_refused(folder: Path) -> None:
    edit_tensors(folder, A=torch.ones(2, 4, 1, 1), B=torch.ones(4, 2, 1, 1))
    assert "expected one rank in all layers, found [2, 3]" in refusal(folder, TENSOR_FILE)


def test_an_empty_file_is_refused(folder: Path) -> None:
    save_file({}, folder / TENSOR_FILE)
    assert "not a LoRA adapter" in refusal(folder, TENSOR_FILE)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    edit_tensors(folder, B=torch.full((4, 3, 1, 1), value))
    assert f"{KEY.format('B')} has values that are not finite" in refusal(folder, TENSOR_FILE)
