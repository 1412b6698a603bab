"""Segmented labels lie on the file's own voxels and are the ones that are evaluated."""

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from cardiac.datasets import ACDC_LABELS, MNMS_LABELS, Case, read_cases
from cardiac.evaluation import evaluate
from cardiac.nifti import count_frames
from cardiac.preprocessing import load_frame, load_volume, volumes
from cardiac.segmentation import largest_parts, read_scan, segment, write_segmentation
from cardiac.view import from_view, to_view, view_spacing_mm
from common.errors import UserError
from common.labels import LV, MYO, RV
from tests.cardiac.samples import heart_image, heart_labels, patch_header, write_nifti
from tests.cardiac.test_preprocessing import STORED, VIEWS, store
from tests.cardiac.test_real_data import DATA

CPU = torch.device("cpu")
PIXDIM, UNITS, QFORM_CODE = 76, 123, 252
"""Byte offsets of these fields in a NIfTI-1 header."""


class Brightness(nn.Module):
    """Predicts for each voxel the label that has its brightness in ``heart_image``."""

    def forward(self, image: Tensor) -> Tensor:
        share = (image - image.min()) / (image.max() - image.min())
        levels = torch.tensor([0.0, 1.0, 0.3125, 0.6875]).reshape(4, 1, 1)
        return -100 * (share - levels).square()  # (z, 1, h, w) -> (z, 4, h, w)


def write_cine(path: Path, frames: list[np.ndarray], affine: np.ndarray | None = None) -> Path:
    return write_nifti(path, np.stack(frames, axis=-1), affine)


def predicted(path: Path, model: nn.Module, spacing_mm: float = 1.5) -> np.ndarray:
    return segment(model, read_scan(path), spacing_mm, CPU)


@pytest.mark.parametrize("axes", VIEWS.values(), ids=VIEWS)
def test_the_way_back_from_the_view_is_exact(axes: np.ndarray) -> None:
    view = np.random.default_rng(0).integers(0, 99, (3, 5, 7))
    for way in STORED:
        array, affine = store(view, axes, [9.0, 1.5, 1.25], way)
        np.testing.assert_array_equal(to_view(array, affine), view)
        np.testing.assert_array_equal(from_view(view, affine), array)
        np.testing.assert_allclose(view_spacing_mm(affine), [9.0, 1.5, 1.25], rtol=1e-6)


def test_labels_are_the_same_however_the_image_is_stored(tmp_path: Path) -> None:
    truth = heart_labels(48, 3)[:, :44]
    truth[0, 10:14, 5:12] = LV  # nothing about it is symmetric
    for way in itertools.product([False, True], [1, -1], [1, -1], [1]):
        image, affine = store(heart_image(truth), VIEWS["oblique 0"], [8.0, 1.5, 1.5], way)
        expected, _ = store(truth, VIEWS["oblique 0"], [8.0, 1.5, 1.5], way)
        path = write_nifti(tmp_path / "image.nii.gz", image, affine)
        found = predicted(path, Brightness())
        assert found.shape == (*image.shape, 1)
        assert np.mean(found[..., 0] != expected) < 0.001, way


def saved_like(path: Path, out: Path, labels: np.ndarray | None = None) -> tuple[Any, Any]:
    """Write labels for an image and return both files as nibabel reads them."""
    scan = read_scan(path)
    if labels is None:
        labels = np.random.default_rng(1).integers(0, 4, scan.data.shape).astype(np.uint8)
    write_segmentation(scan, labels, MNMS_LABELS, out)
    return nib.load(path), nib.load(out)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("shape", [(9, 8, 3), (9, 8, 3, 1), (9, 8, 3, 4)])
@pytest.mark.parametrize("codes", [(0, 2), (1, 0), (1, 3), (0, 0)])
def test_labels_lie_where_the_image_does(
    tmp_path: Path, kind: Any, shape: tuple[int, ...], codes: tuple[int, int]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = VIEWS["oblique 1"] * [1.3, 1.4, 9.0]
    affine[:3, 3] = [-70.0, 31.5, 12.25]
    image = kind(np.random.default_rng(0).normal(500, 90, shape), affine)
    image.header.set_qform(affine, codes[0])
    image.header.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe, 12.3.1956"
    if len(shape) == 4:
        image.header.set_zooms((1.3, 1.4, 9.0, 0.035))
    nib.save(image, tmp_path / "image.nii")
    before, after = saved_like(tmp_path / "image.nii", tmp_path / "out.nii.gz")
    assert type(after) is type(before)
    assert after.shape == before.shape == shape
    assert after.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(after.affine, before.affine)
    for field in ("pixdim", "xyzt_units", "qform_code", "sform_code", "srow_z", "quatern_b"):
        np.testing.assert_array_equal(after.header[field], before.header[field])
    assert b"Jane" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())


def test_labels_get_the_numbers_of_the_data_set(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "image.nii.gz", np.random.default_rng(0).normal(size=(4, 4, 2)))
    scan = read_scan(path)
    labels = np.arange(32, dtype=np.uint8).reshape(4, 4, 2, 1) % 4
    for label_map, numbers in ((ACDC_LABELS, [0, 3, 2, 1]), (MNMS_LABELS, [0, 1, 2, 3])):
        write_segmentation(scan, labels, label_map, tmp_path / "out.nii.gz")
        written = np.asarray(nib.load(tmp_path / "out.nii.gz").dataobj)
        np.testing.assert_array_equal(written, np.array(numbers)[labels[..., 0]])


def written_dice(case: Case, model: nn.Module, spacing_mm: float, folder: Path) -> list[float]:
    """Return the Dice of written labels, which are read as the data set's own labels are."""
    scan = read_scan(case.image)
    labels = segment(model, scan, spacing_mm, CPU)
    path = folder / "seg.nii.gz"
    write_segmentation(scan, labels, case.label_map, path)
    truth = load_frame(case)[1]
    own = load_frame(Case("", "", case.image, path, case.label_map, {}))[1]
    pairs = [(own == s, truth == s) for s in (LV, MYO, RV)]
    return [2 * np.sum(a & b) / (np.sum(a) + np.sum(b)) for a, b in pairs]


def check_dice(case: Case, model: nn.Module, spacing_mm: float, folder: Path) -> None:
    volume = load_volume(volumes([case], spacing_mm, None), 0)
    expected = evaluate(model, [volume], CPU, hd95=False).dice[0]
    found = written_dice(case, model, spacing_mm, folder)
    assert np.sum(found) > 0
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("layout", ["acdc", "mnms2"])
def test_what_is_written_scores_as_evaluated(
    tmp_path: Path, phantom_dir: Path, unet: nn.Module, layout: str
) -> None:
    for case in read_cases(phantom_dir / layout)[::5]:
        check_dice(case, unet, 3.0, tmp_path)


@pytest.mark.data
@pytest.mark.parametrize(("name", "step"), [("mnms2_sample", 1), ("acdc", 60)])
def test_what_is_written_for_real_images_scores_as_evaluated(
    tmp_path: Path, unet: nn.Module, name: str, step: int
) -> None:
    if not (DATA / name).is_dir():
        pytest.skip(f"{DATA / name} is not there")
    for case in read_cases(DATA / name)[::step]:
        check_dice(case, unet, 2.0, tmp_path)


def test_a_cine_is_its_frames(tmp_path: Path, unet: nn.Module) -> None:
    frames = [heart_image(heart_labels(40, 3), seed).transpose(2, 1, 0) for seed in range(3)]
    cine = write_cine(tmp_path / "cine.nii.gz", frames)
    assert count_frames(cine) == 3
    together = predicted(cine, unet)
    assert together.shape == (40, 40, 3, 3)
    assert together.any()
    for number, frame in enumerate(frames):
        alone = predicted(write_nifti(tmp_path / "frame.nii.gz", frame), unet)
        np.testing.assert_array_equal(together[..., number], alone[..., 0])


def test_many_slices_are_segmented_in_parts_to_the_same_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = heart_labels(32, 9)
    path = write_nifti(tmp_path / "x.nii.gz", heart_image(truth).transpose(2, 1, 0))
    whole, sizes = predicted(path, Brightness()), []

    class Counting(Brightness):
        def forward(self, image: Tensor) -> Tensor:
            sizes.append(len(image))
            return super().forward(image)

    monkeypatch.setattr("cardiac.segmentation.SLICES_AT_ONCE", 4)
    in_parts = predicted(path, Counting())
    assert sizes == [4, 4, 1]
    assert np.mean(in_parts != whole) < 0.001


def test_only_the_largest_part_of_each_structure_is_kept() -> None:
    rng = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.6):
        labels = np.where(rng.random((5, 24, 24)) < share, rng.integers(1, 4, (5, 24, 24)), 0)
        kept = largest_parts(labels)
        np.testing.assert_array_equal(largest_parts(kept), kept)
        for structure in (LV, MYO, RV):
            parts, _ = ndimage.label(labels == structure, np.ones((3, 3, 3)))
            sizes = [np.sum(parts == number) for number in range(1, parts.max() + 1)]
            assert np.sum(kept == structure) == max(sizes)
        assert set(np.unique(labels[kept != labels])) <= {LV, MYO, RV}
        assert not kept[kept != labels].any()
    assert not largest_parts(np.zeros((2, 3, 3), np.uint8)).any()


def test_the_largest_part_is_chosen_across_slices(tmp_path: Path) -> None:
    truth = heart_labels(48, 3)
    truth[1, 40:44, 40:44] = LV
    path = write_nifti(tmp_path / "x.nii.gz", heart_image(truth).transpose(2, 1, 0))
    scan = read_scan(path)
    plain = segment(Brightness(), scan, 1.5, CPU)
    clean = segment(Brightness(), scan, 1.5, CPU, largest=True)
    assert (plain[40:44, 40:44, 1] == LV).all()
    assert not clean[40:44, 40:44, 1].any()
    assert (clean[24:34, 24, :] == plain[24:34, 24, :]).all()


def spaced(spacing_mm: tuple[float, float, float]) -> np.ndarray:
    return np.diag([*spacing_mm, 1.0])


def leave_unfilled(path: Path) -> None:
    patch_header(path, QFORM_CODE, bytes(4))  # and the sform's, which comes after it
    patch_header(path, PIXDIM + 4, np.ones(3, np.float32).tobytes())


Spoil = Callable[[Path], object]
DOUBTED: dict[str, tuple[Spoil, str, str]] = {
    "metres": (lambda p: patch_header(p, UNITS, b"\x01"), "length is metre", "expected mm"),
    "micrometres": (lambda p: patch_header(p, UNITS, b"\x0b"), "is micrometre", "expected mm"),
    "no such unit": (lambda p: patch_header(p, UNITS, b"\x06"), "is code 6", "expected mm"),
    "pixdim 0": (
        lambda p: patch_header(p, PIXDIM + 4, np.zeros(3, np.float32).tobytes()),
        "pixdim is 0 × 0 × 0",
        "above zero",
    ),
    "a default header": (
        leave_unfilled,
        "pixdim is 1 × 1 × 1 and neither qform nor sform",
        "filled in",
    ),
    "pixdim is not the affine's": (
        lambda p: patch_header(p, PIXDIM + 12, np.array(6, np.float32).tobytes()),
        "pixdim is 1.5 × 1.5 × 6, but the affine's spacing is 1.5 × 1.5 × 8",
        "one and the same",
    ),
    "centimetres": (
        lambda p: rewrite(p, (0.15, 0.15, 0.8)),
        "in-plane spacing is 0.15 × 0.15 mm",
        "0.5 to 3 mm",
    ),
    "slices first": (
        lambda p: rewrite(p, (8.0, 1.5, 1.5)),
        "in-plane spacing is 8 × 1.5 mm",
        "0.5 to 3 mm",
    ),
    "isotropic": (
        lambda p: rewrite(p, (1.2, 1.2, 1.2)),
        "spacing of slices (the third axis) is 1.2 mm",
        "2 to 20 mm",
    ),
    "slices far apart": (lambda p: rewrite(p, (1.2, 1.2, 25.0)), "is 25 mm", "2 to 20 mm"),
}


def rewrite(path: Path, spacing_mm: tuple[float, float, float]) -> None:
    write_nifti(path, nib.load(path).get_fdata(), spaced(spacing_mm))


@pytest.mark.parametrize(("spoil", "found", "expected"), DOUBTED.values(), ids=DOUBTED)
def test_a_spacing_that_cannot_be_trusted_is_refused(
    tmp_path: Path, spoil: Spoil, found: str, expected: str
) -> None:
    data = heart_image(heart_labels(16, 2)).transpose(2, 1, 0)
    path = write_nifti(tmp_path / "image.nii.gz", data)
    read_scan(path)
    spoil(path)
    with pytest.raises(UserError) as error:
        read_scan(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert [word for word in (found, expected, "--any-spacing") if word not in message] == []
    assert read_scan(path, any_spacing=True).frames == 1


def test_unknown_units_are_taken_for_mm_as_mnms2_leaves_them(tmp_path: Path) -> None:
    path = write_nifti(tmp_path / "image.nii.gz", heart_image(heart_labels(16, 2)))
    patch_header(path, UNITS, b"\x00")
    assert read_scan(path).frames == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bad_frame_of_a_cine_is_named(tmp_path: Path, value: float) -> None:
    frames = [heart_image(heart_labels(16, 2)).transpose(2, 1, 0) for _ in range(3)]
    frames[1][3, 3, 1] = value
    path = write_cine(tmp_path / "cine.nii.gz", frames)
    with pytest.raises(UserError, match=r"frame 2: 1 values are NaN or infinite"):
        read_scan(path)
    frames[1][:] = 7
    path = write_cine(tmp_path / "cine.nii.gz", frames)
    with pytest.raises(UserError, match=r"frame 2: every value is 7"):
        read_scan(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "cannot be read as NIfTI"), (b"text", "cannot be read"), (b"\x5c\x01" * 400, "begin")],
)
def test_what_is_no_nifti_is_said(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "image.nii"
    path.write_bytes(content)
    assert count_frames(path) == 1
    for any_spacing in (False, True):
        with pytest.raises(UserError, match="cannot be read as NIfTI"):
            read_scan(path, any_spacing=any_spacing)
    with pytest.raises(UserError, match=words):
        read_scan(path)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 2, 2, 2)])
def test_other_dimensions_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", np.random.default_rng(0).normal(size=shape))
    with pytest.raises(UserError, match=r"expected three or four dimensions"):
        read_scan(path, any_spacing=True)


def test_no_warning_of_nibabel_gets_between(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_nifti(tmp_path / "x.nii.gz", heart_image(heart_labels(16, 2)))
    patch_header(path, PIXDIM + 4, np.zeros(3, np.float32).tobytes())
    count_frames(path)
    with pytest.raises(UserError, match="pixdim"):
        read_scan(path)
    assert capfd.readouterr() == ("", "")


def test_an_image_that_holds_ras_axes_gets_the_same_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    data = rng.uniform(0, 100, (24, 31, 2)).astype(np.float32)
    affine = np.diag([1.5, 1.5, 8.0, 1.0])
    affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ affine[:3, :3]
    labels = []
    for axes, stored in (("LPS", affine), ("RAS", np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)):
        path = write_nifti(tmp_path / f"{axes}.nii.gz", data, stored)
        labels.append(segment(Tilted(), read_scan(path, axes=axes), 1.5, CPU))
    assert labels[0].any()
    np.testing.assert_array_equal(labels[0], labels[1])


class Tilted(nn.Module):
    """Predicts labels by brightness and by place, so that a turned view gives other labels."""

    def forward(self, image: Tensor) -> Tensor:
        right = torch.linspace(0, 3, image.shape[-1])
        return torch.cat([image + k * right for k in (0.0, 1.0, -1.0, 0.5)], dim=1)
