"""MONAI accepts the bundle, and the bundle labels files as we do."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow, run, verify_metadata, verify_net_in_out
from torch import Tensor

from cardiac.datasets import Case
from cardiac.evaluation import predict_labels
from cardiac.preprocessing import load_volume, volumes
from cardiac.view import to_view
from cli.export import export
from common.labels import NUM_CLASSES
from common.model import file_sha256
from tests.cardiac.samples import heart_image, heart_labels, write_nifti
from tests.results.export_samples import CPU, SPACING_MM, Model, write_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning"),  # MONAI's, on trust
    pytest.mark.filterwarnings("ignore:.*any `.?_target_.*:UserWarning"),
]

TEXT = {"type": "string", "minLength": 1}
VERSIONS = {"type": "object", "additionalProperties": TEXT}
TENSOR = {
    "type": "object",
    "required": [
        *("type", "format", "modality", "num_channels", "spatial_shape", "dtype"),
        *("value_range", "is_patch_data", "channel_def"),
    ],
    "properties": {
        "type": {"enum": ["image", "series", "tuples", "probabilities"]},
        "format": TEXT,
        "modality": TEXT,
        "num_channels": {"type": "integer", "minimum": 1},
        "spatial_shape": {"type": "array", "items": {"type": ["integer", "string"]}},
        "dtype": {"enum": ["float32", "float16", "int32", "uint8"]},
        "value_range": {"type": "array", "maxItems": 2},
        "is_patch_data": {"type": "boolean"},
        "channel_def": VERSIONS,
    },
}
TENSORS = {"type": "object", "minProperties": 1, "additionalProperties": TENSOR}
SCHEMA = {
    "type": "object",
    "required": [
        *("version", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "task", "description", "authors", "copyright"),
        *("network_data_format", "schema", "changelog"),
    ],
    "properties": {
        **dict.fromkeys(("version", "task", "description", "authors", "copyright"), TEXT),
        **dict.fromkeys(("monai_version", "pytorch_version", "numpy_version"), TEXT),
        **dict.fromkeys(("required_packages_version", "changelog"), VERSIONS),
        "network_data_format": {
            "type": "object",
            "required": ["inputs", "outputs"],
            "properties": {"inputs": TENSORS, "outputs": TENSORS},
        },
    },
}
"""What MONAI's bundle specification calls mandatory; MONAI does not ship its own schema."""

OBLIQUE = np.array([[0.85, -0.3, 0.4], [0.5, 0.35, -0.72], [0.1, -0.85, -0.55]])
"""Columns: where the right, the down and the slice axis of a view go, in LPS."""
STEEP = np.array([[0.8, -0.1, 0.3], [0.55, 0.6, -0.4], [0.1, -0.8, -0.9]])
"""A heart whose slices are nearly axial: the slice axis is closest to the patient's z."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return write_model(tmp_path_factory.getbasetemp() / "export")


@pytest.fixture(scope="module")
def bundle(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "out"
    export(out, model.base, model.adapter, config=model.config, formats=["bundle"])
    return out / "bundle"


def config_file(bundle: Path) -> str:
    return str(bundle / "configs" / "inference.json")


def meta_file(bundle: Path) -> str:
    return str(bundle / "configs" / "metadata.json")


# --- what MONAI says of it


def test_the_bundle_has_the_files_of_the_specification(bundle: Path) -> None:
    found = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert found == {
        *("configs/metadata.json", "configs/inference.json", "models/model.pt", "models/model.ts"),
        *("docs/README.md", "LICENSE"),
    }


def test_the_metadata_holds_against_a_schema(bundle: Path, tmp_path: Path) -> None:
    """MONAI takes the schema that is already at ``filepath`` and downloads none."""
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps(SCHEMA))
    local = {"filepath": str(schema), "hash_val": file_sha256(schema), "hash_type": "sha256"}
    verify_metadata(meta_file(bundle), **local)
    wrong = json.loads(Path(meta_file(bundle)).read_text())
    del wrong["network_data_format"]["outputs"]["pred"]["channel_def"]
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="channel_def"):
        verify_metadata(str(tmp_path / "wrong.json"), **local)


@pytest.mark.parametrize(("n", "p"), [(1, 1), (3, 6)])
def test_the_network_takes_and_gives_what_the_metadata_say(bundle: Path, n: int, p: int) -> None:
    verify_net_in_out("network", meta_file(bundle), config_file(bundle), device="cpu", n=n, p=p)
    with pytest.raises(ValueError, match="output channel number"):
        verify_net_in_out(
            "network", meta_file(bundle), config_file(bundle), device="cpu",
            **{"_meta_::network_data_format::outputs::pred::num_channels": 3},
        )  # fmt: skip


def test_the_script_carries_its_configurations(bundle: Path) -> None:
    extra = {"metadata.json": "", "inference.json": ""}
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        torch.jit.load(  # type: ignore[no-untyped-call]
            bundle / "models" / "model.ts", _extra_files=extra
        )
    for name, content in extra.items():
        expected = json.loads((bundle / "configs" / name).read_text())
        assert json.loads(content) == expected


# --- what it makes of files


def dice(a: Tensor, b: Tensor) -> list[float]:
    """Return the Dice of every structure that either has."""
    structures = [(a == label, b == label) for label in range(1, NUM_CLASSES)]
    return [float(2 * (x & y).sum() / (x.sum() + y.sum())) for x, y in structures if (x | y).any()]


def ours(model: Model, case: Case) -> Tensor:
    """Return our labels (z, H, W) in the standard view."""
    volume = load_volume(volumes([case], SPACING_MM, None), 0)
    size = volume["native_label"].shape[1:]
    return predict_labels(model.network(), volume["image"], size, CPU)


def test_it_labels_phantoms_on_their_own_grid_nearly_as_we_do(
    bundle: Path, model: Model, tmp_path: Path
) -> None:
    """Nearly: MONAI's resampling has no anti-aliasing."""
    cases = model.cases[::2]
    run(
        config_file=config_file(bundle),
        bundle_root=str(bundle),
        datalist=[str(case.image) for case in cases],
        output_dir=str(tmp_path),
    )
    agreement = []
    for case in cases:
        image = nib.load(case.image)
        labels = nib.load(tmp_path / f"{case.image.name.split('.')[0]}_seg.nii.gz")
        assert isinstance(labels, nib.Nifti1Image)
        assert isinstance(image, nib.Nifti1Image)
        assert labels.shape == image.shape
        assert labels.get_data_dtype() == np.uint8
        np.testing.assert_allclose(labels.affine, image.affine, atol=1e-4)
        view = torch.from_numpy(to_view(np.asarray(labels.dataobj), image.affine).copy())
        agreement += dice(view, ours(model, case))
    assert min(agreement) > 0.85
    assert np.mean(agreement) > 0.92


def test_it_labels_every_file_of_a_folder(bundle: Path, model: Model, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for case in model.cases[:2]:
        (tmp_path / "images" / case.image.name).write_bytes(case.image.read_bytes())
    run(
        config_file=config_file(bundle),
        bundle_root=str(bundle),
        dataset_dir=str(tmp_path / "images"),
        output_dir=str(tmp_path / "labels"),
    )
    names = {f"{case.image.name.split('.')[0]}_seg.nii.gz" for case in model.cases[:2]}
    assert {path.name for path in (tmp_path / "labels").iterdir()} == names


def stored(folder: Path, axes: tuple[int, int], flips: tuple[int, ...], view: np.ndarray) -> Case:
    """Write a heart as a scanner would that stores its view's axes so, SPACING_MM a pixel."""
    labels = heart_labels(40, 3)
    affine = np.eye(4)
    affine[:3, :3] = view / np.linalg.norm(view, axis=0) * (SPACING_MM, SPACING_MM, 8)
    turn = np.eye(4)[[*axes, 2, 3]].T
    sizes = (40, 40)
    for axis in flips:
        turn[:, axis] *= -1
        turn[axes[axis], 3] = sizes[axis] - 1
    paths = folder / "image.nii.gz", folder / "label.nii.gz"
    for path, array in zip(paths, (heart_image(labels).astype(np.float32), labels), strict=True):
        turned = np.flip(array.T.transpose(*axes, 2), flips)  # (z, h, w) -> (right, down, z) -> …
        write_nifti(path, np.ascontiguousarray(turned), affine @ turn)
    return Case("001", "ED", *paths, {0: 0, 1: 1, 2: 2, 3: 3}, {})


def network_input(bundle: Path, case: Case, **override: Any) -> Tensor:
    """Return the slices (z, 1, h, w) that the bundle shows its network."""
    workflow = ConfigWorkflow(
        config_file(bundle), workflow_type=None, logging_file=False,
        bundle_root=str(bundle), datalist=[str(case.image)], **override,
    )  # fmt: skip
    workflow.initialize()
    (item,) = workflow.parser.get_parsed_content("dataset")
    image: Tensor = item["image"].as_tensor()
    return image.permute(3, 0, 1, 2)  # (1, h, w, z) -> (z, 1, h, w)


@pytest.mark.parametrize("view", [np.eye(3), OBLIQUE, STEEP], ids=["aligned", "oblique", "steep"])
@pytest.mark.parametrize("axes", [(0, 1), (1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (0, 1)])
def test_the_network_sees_the_same_view_however_the_file_is_stored(
    bundle: Path, tmp_path: Path, view: np.ndarray, axes: tuple[int, int], flips: tuple[int, ...]
) -> None:
    case = stored(tmp_path, axes, flips, view)
    expected = load_volume(volumes([case], SPACING_MM, None), 0)["image"]
    found = network_input(bundle, case)
    assert found.shape == (3, 1, 48, 48)  # padded at the end, with the edge
    torch.testing.assert_close(found[..., :40, :40], expected, rtol=0, atol=1e-3)
    assert torch.equal(found[..., 40:, :40], found[..., 39:40, :40].expand(3, 1, 8, 40))


def test_files_with_true_ras_axes_are_seen_so_when_told(bundle: Path, tmp_path: Path) -> None:
    lps = stored(tmp_path / "lps", (0, 1), (), OBLIQUE)
    ras = stored(tmp_path / "ras", (0, 1), (), np.diag([-1.0, -1.0, 1.0]) @ OBLIQUE)
    expected = network_input(bundle, lps)
    torch.testing.assert_close(network_input(bundle, ras, affine_axes="RAS"), expected)
    assert not torch.allclose(network_input(bundle, ras), expected, atol=0.1)
