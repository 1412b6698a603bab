"""Exported models give the same labels as the base with its adapter in every format."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from cardiac.evaluation import predict_logits
from cli.export import export
from common.adapter import load_adapter, save_adapter
from common.errors import UserError
from common.model import build_unet, file_sha256, load_base, save_base
from common.peft_format import load_peft
from common.tensor_files import read_tensors
from results.export import onnx_file
from server_app.run_config import load_config
from tests.cli.running import Ended, Run
from tests.conftest import SMALL
from tests.results.export_samples import (
    CPU,
    SPACING_MM,
    Model,
    labels,
    random_adapter,
    write_model,
)

LOGIT_TOLERANCE = 1e-4
"""How far logits of ONNX Runtime may differ, as it sums in another order."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return write_model(tmp_path_factory.getbasetemp() / "export")


@pytest.fixture(scope="module")
def ended(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Return how an export of every format ended, in a process of its own."""
    out = tmp_path_factory.mktemp("exported") / "out"
    program = "import typer; from cli.export import export; typer.run(export)"
    words = [str(word) for word in options(model, out)]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def exported(ended: Ended) -> Path:
    """Return a folder with every format."""
    assert ended.status == 0, ended.error
    return Path(ended.out.splitlines()[-1]).parent


def options(model: Model, out: Path) -> list[object]:
    return [
        "--base", model.base, "--adapter", model.adapter, "--config", model.config, "--out", out
    ]  # fmt: skip


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- what is in the files


def test_the_files_are_checked_on_enough_slices_of_which_the_adapter_changes_some(
    model: Model,
) -> None:
    assert sum(len(image) for image in model.slices) >= 50
    assert not same(model.adapted, labels(model.network(adapted=False), model))
    assert set(torch.cat([found.flatten() for found in model.adapted]).tolist()) == {0, 1, 2, 3}


def test_the_folded_base_gives_the_labels_of_base_and_adapter(model: Model, exported: Path) -> None:
    config = load_config(exported / "config.toml")
    folded = load_base(
        exported / "model.safetensors", config.model.channels(), sha256=config.base_sha256
    )
    assert same(labels(folded.eval(), model), model.adapted)
    assert config.data.spacing_mm == SPACING_MM
    assert config.base_sha256 == file_sha256(exported / "model.safetensors")


def test_the_folded_base_notes_what_it_was_made_of(model: Model, exported: Path) -> None:
    _, notes = read_tensors(exported / "model.safetensors", "a file", sealed=True)
    assert notes == {
        "base-sha256": file_sha256(model.base),
        "adapter-sha256": file_sha256(model.adapter),
    }


class OnnxNetwork(nn.Module):
    """The ONNX file in ONNX Runtime, called as a network."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run(["logits"], {"image": image.numpy()})[0])


def test_onnx_runtime_gives_the_labels_of_base_and_adapter(model: Model, exported: Path) -> None:
    network, theirs = model.network(), OnnxNetwork(exported / "model.onnx")
    assert same(labels(theirs, model), model.adapted)
    for image in model.slices[::3]:
        logits = predict_logits(network, image, CPU)
        torch.testing.assert_close(
            predict_logits(theirs, image, CPU), logits, rtol=0, atol=LOGIT_TOLERANCE
        )


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (3, 1, 48, 112), (2, 1, 144, 32)])
def test_onnx_takes_any_number_of_slices_of_any_size(
    model: Model, exported: Path, shape: tuple[int, ...]
) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    expected = model.network()(image).detach()
    torch.testing.assert_close(
        OnnxNetwork(exported / "model.onnx")(image), expected, rtol=0, atol=LOGIT_TOLERANCE
    )


def test_onnx_says_its_opset_and_what_a_program_must_know(model: Model, exported: Path) -> None:
    file = onnx.load(exported / "model.onnx")
    onnx.checker.check_model(file)
    assert {(entry.domain, entry.version) for entry in file.opset_import} == {("", 18)}
    facts = {entry.key: entry.value for entry in file.metadata_props}
    assert json.loads(facts["labels"]) == {"0": "background", "1": "LV", "2": "MYO", "3": "RV"}
    assert float(facts["spacing-mm"]) == SPACING_MM
    assert "0.5 and 99.5" in facts["normalisation"]
    assert facts["adapter-sha256"] == file_sha256(model.adapter)


@pytest.mark.parametrize("name", ["model.pt", "model.ts"])
def test_the_bundles_weights_give_the_labels_of_base_and_adapter(
    model: Model, exported: Path, name: str
) -> None:
    path = exported / "bundle" / "models" / name
    network: nn.Module
    if name == "model.ts":
        with pytest.warns(DeprecationWarning, match="torch.jit.load"):
            network = torch.jit.load(path)  # type: ignore[no-untyped-call]
    else:
        network = build_unet(SMALL)
        network.load_state_dict(torch.load(path, weights_only=True))
    assert same(labels(network.eval(), model), model.adapted)


def test_peft_gives_the_adapter_back_exactly(model: Model, exported: Path) -> None:
    expected, found = load_adapter(model.adapter)[0], load_peft(exported / "peft")
    assert found.scale == expected.scale
    for name, value in expected.tensors().items():
        assert torch.equal(found.tensors()[name], value), name


def test_a_base_alone_is_exported_as_it_is_and_without_peft(model: Model, tmp_path: Path) -> None:
    export(tmp_path / "out", model.base, config=model.config, formats=["safetensors", "bundle"])
    again = load_base(tmp_path / "out" / "model.safetensors", SMALL).state_dict()
    for name, value in load_base(model.base, SMALL).state_dict().items():
        assert torch.equal(again[name], value)
    assert not (tmp_path / "out" / "peft").exists()
    assert "the base model alone" in (tmp_path / "out" / "MODEL_CARD.md").read_text()


def test_an_export_prints_the_files_it_wrote_and_nothing_else(ended: Ended, exported: Path) -> None:
    assert ended.error == ""
    written = {path for path in exported.rglob("*") if path.is_file()}
    assert {Path(line) for line in ended.out.splitlines()} == written


# --- mistakes


def refused(ended: Ended, out: Path, *words: str) -> None:
    """Check for status 2, one line with all of the words, and that nothing was written."""
    assert ended.status == 2, ended
    (line,) = ended.error.strip().splitlines()
    assert line.startswith("Error: ")
    assert [word for word in words if word not in line] == [], line
    assert not out.exists()


def test_an_unknown_format_is_named_with_those_there_are(
    run: Run, model: Model, tmp_path: Path
) -> None:
    ended = run("export", *options(model, tmp_path / "out"), "--format", "onxx")
    refused(ended, tmp_path / "out", "--format", "'onxx'", "safetensors, onnx, bundle, peft, all")


def test_a_missing_optional_package_is_named_with_what_installs_it(
    run: Run, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnxscript" else 1)
    ended = run("export", *options(model, tmp_path / "out"))
    refused(ended, tmp_path / "out", "onnxscript", "pip install 'rate-my-lora[onnx]'")
    ended = run("export", *options(model, tmp_path / "out"), "--format", "safetensors")
    assert ended.status == 0, ended.error


def test_an_adapter_that_does_not_fit_is_named(run: Run, model: Model, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_adapter(random_adapter(build_unet((8, 8, 8, 8, 8, 8))), other)
    words = options(model, tmp_path / "out")
    words[words.index(model.adapter)] = other
    refused(run("export", *words), tmp_path / "out", f"{other}: does not fit {model.base}")


def test_an_adapter_of_another_base_is_refused(run: Run, model: Model, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_base(build_unet(SMALL), other)
    words = options(model, tmp_path / "out")
    words[words.index(model.base)] = other
    ended = run("export", *words)
    refused(ended, tmp_path / "out", str(model.adapter), file_sha256(model.base), str(other))


def test_peft_without_an_adapter_is_refused(run: Run, model: Model, tmp_path: Path) -> None:
    words = ("--base", model.base, "--config", model.config, "--out", tmp_path / "out")
    ended = run("export", *words, "--format", "peft")
    refused(ended, tmp_path / "out", "--format peft", "--adapter or --run")


def test_a_folder_that_holds_something_is_left_alone(
    run: Run, model: Model, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("precious")
    ended = run("export", *options(model, tmp_path))
    assert ended.status == 2
    assert f"{tmp_path}: holds mine, expected it new or empty" in ended.error
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_without_a_base_it_is_asked_for(model: Model, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--base: missing"):
        export(tmp_path / "out", adapter=model.adapter, config=model.config)
    assert not (tmp_path / "out").exists()
