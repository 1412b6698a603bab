"""From files to slices: one view, one spacing, one scale, and plain words for bad files."""

import io
import itertools
import os
import pickle
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from cardiac import preprocessing
from cardiac.datasets import ACDC_LABELS, MNMS_LABELS, Case
from cardiac.preprocessing import (
    Volume,
    load_frame,
    load_volume,
    standardise,
    volumes,
)
from cardiac.view import in_plane_orientation
from common.errors import UserError
from common.labels import BACKGROUND, LV, MYO, RV
from tests.cardiac.samples import heart_labels, patch_header, write_case, write_nifti

# The standard view in the scanner's LPS axes, written out so that the test does not lean on what
# it tests; made orthogonal, as a scanner's axes are
RIGHT = np.array([0.85, 0.5, 0.0]) / np.hypot(0.85, 0.5)
DOWN = np.array([-0.375, 0.375, -0.85])
DOWN = (DOWN - DOWN @ RIGHT * RIGHT) / np.linalg.norm(DOWN - DOWN @ RIGHT * RIGHT)
AXIAL = np.eye(3)
"""A diagonal affine, whose axes go to the patient's left and back."""


def tilted(seed: int) -> np.ndarray:
    """Return the view's axes (right, down, through) turned by some degrees, as patients differ."""
    axes = np.stack([RIGHT, DOWN, np.cross(RIGHT, DOWN)], axis=1)
    turn, _ = np.linalg.qr(np.eye(3) + np.random.default_rng(seed).normal(0, 0.12, (3, 3)))
    turned: np.ndarray = turn * np.sign(np.diag(turn)) @ axes
    return turned


VIEWS = {"axial": AXIAL, **{f"oblique {seed}": tilted(seed) for seed in range(3)}}
STORED = list(itertools.product([False, True], [1, -1], [1, -1], [1, -1]))
"""Ways of keeping a slice stack: swapped in plane or not, and the direction of every axis."""


def store(
    view: np.ndarray, axes: np.ndarray, spacing_mm: list[float], way: tuple[bool, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Turn (z, H, W) of the standard view into a file's array (i, j, k) and its affine.

    The slices keep their order; only the sign of their axis in space differs.
    """
    swap, first, second, through = way
    array, columns = view.transpose(2, 1, 0), axes * np.array(spacing_mm)[[2, 1, 0]]
    if swap:
        array, columns = array.swapaxes(0, 1), columns[:, [1, 0, 2]]
    array = array[::first, ::second]
    affine = np.eye(4)
    affine[:3, :3] = columns * [first, second, through]
    affine[:3, 3] = [-120.0, 35.5, 60.0]
    return array, affine


def stored_case(folder: Path, image: np.ndarray, label: np.ndarray, affine: np.ndarray) -> Case:
    return Case(
        "007",
        "ED",
        write_nifti(folder / "image.nii.gz", image, affine),
        write_nifti(folder / "label.nii.gz", label, affine),
        MNMS_LABELS,
        {},
    )


@pytest.mark.parametrize("axes", VIEWS.values(), ids=VIEWS)
def test_a_volume_comes_out_the_same_however_it_is_stored(tmp_path: Path, axes: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    view = rng.uniform(0, 900, (3, 14, 19)).astype(np.float32)
    labels = rng.integers(0, 4, view.shape).astype(np.uint8)
    spacing_mm = [9.0, 1.75, 1.25]
    for way in STORED:
        (image, affine), (label, _) = (store(a, axes, spacing_mm, way) for a in (view, labels))
        case = stored_case(tmp_path, image, label, affine)
        found, found_label, found_mm = load_frame(case)
        np.testing.assert_array_equal(found, view, err_msg=str(way))
        np.testing.assert_array_equal(found_label, labels, err_msg=str(way))
        np.testing.assert_allclose(found_mm, spacing_mm, rtol=1e-6)
        native = load_volume(volumes([case], 1.5, None), 0)
        np.testing.assert_array_equal(native["native_label"], labels, err_msg=str(way))


def test_files_that_hold_ras_axes_come_out_as_those_that_hold_lps(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 900, (14, 19, 3)).astype(np.float32)
    label = rng.integers(0, 4, image.shape).astype(np.uint8)
    columns = np.linalg.qr(rng.normal(size=(3, 3)))[0] * [1.3, 1.3, 8.0]
    lps = np.eye(4)
    lps[:3, :3] = columns
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    expected = load_frame(stored_case(tmp_path, image, label, lps))
    case = stored_case(tmp_path, image, label, ras)
    for found, wanted in zip(load_frame(replace(case, axes="RAS")), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(load_frame(case)[0], expected[0])
    turned = [load_volume(volumes([replace(case, axes=axes)], 1.5, tmp_path / "cache"), 0)
              for axes in ("LPS", "RAS")]  # fmt: skip
    assert not torch.equal(turned[0]["image"], turned[1]["image"])


def test_the_slice_axis_is_never_moved_whatever_the_affine() -> None:
    rng = np.random.default_rng(1)
    for _ in range(300):
        affine = np.eye(4)
        affine[:3, :3] = np.linalg.qr(rng.normal(size=(3, 3)))[0] * [1.3, 1.3, 8.0]
        orientation = in_plane_orientation(affine)
        assert orientation[2].tolist() == [2, 1]
        assert sorted(orientation[:2, 0]) == [0, 1]
        assert set(np.abs(orientation[:, 1])) == {1}


@pytest.mark.parametrize("spacing_mm", [0.9, 1.5, 4.0])
def test_slices_come_at_the_asked_spacing(tmp_path: Path, spacing_mm: float) -> None:
    view = heart_labels(60, 2)[:, :52]
    array, affine = store(view, tilted(0), [8.0, 1.7, 1.3], (True, -1, 1, 1))
    volume = load_volume(
        volumes([stored_case(tmp_path, array * 50.0, array, affine)], spacing_mm, None), 0
    )
    slices, channels, h, w = volume["image"].shape
    assert (slices, channels) == (2, 1)
    assert abs(h * spacing_mm - 52 * 1.7) <= spacing_mm / 2
    assert abs(w * spacing_mm - 60 * 1.3) <= spacing_mm / 2
    assert volume["label"].shape == volume["image"].shape


@pytest.mark.parametrize("spacing_mm", [0.7, 1.0, 1.9])
def test_structures_keep_their_area_and_place(tmp_path: Path, spacing_mm: float) -> None:
    view = heart_labels(120, 1)
    array, affine = store(view, AXIAL, [8.0, 1.0, 1.0], (False, 1, 1, 1))
    case = stored_case(tmp_path, array * 50.0, array, affine)
    label = load_volume(volumes([case], spacing_mm, None), 0)["label"][0, 0].numpy()
    pixel_mm = 120 / label.shape[0]  # the asked spacing, but for half a pixel of the extent
    for structure in (LV, MYO, RV):
        area_mm2 = np.sum(label == structure) * pixel_mm**2
        assert area_mm2 == pytest.approx(np.sum(view == structure), rel=0.04)
        centre_mm = (np.argwhere(label == structure).mean(axis=0) + 0.5) * pixel_mm
        expected_mm = np.argwhere(view[0] == structure).mean(axis=0) + 0.5
        np.testing.assert_allclose(centre_mm, expected_mm, atol=0.4)


def test_a_volume_at_its_own_spacing_is_not_resampled(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    volume = load_volume(volumes([case], 1.5, None), 0)
    image, label, _ = load_frame(case)
    np.testing.assert_array_equal(volume["image"][:, 0], standardise(image))
    np.testing.assert_array_equal(volume["label"][:, 0], label)


def test_types_are_those_that_are_promised(tmp_path: Path) -> None:
    volume = load_volume(volumes([write_case(tmp_path)], 2.0, None), 0)
    assert {key: value.dtype for key, value in volume.items()} == {
        "image": torch.float32,
        "label": torch.uint8,
        "native_label": torch.uint8,
        "native_spacing_mm": torch.float32,
    }


def test_intensities_get_mean_0_and_deviation_1_whatever_their_scale() -> None:
    image = np.random.default_rng(0).gamma(2.0, 100.0, (6, 40, 40)).astype(np.float32)
    standard = standardise(image)
    assert standard.mean() == pytest.approx(0, abs=1e-4)
    assert standard.std() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(standardise(3 * image + 500), standard, atol=1e-3)


def test_a_few_wild_pixels_change_little() -> None:
    image = np.random.default_rng(0).gamma(2.0, 100.0, (6, 40, 40)).astype(np.float32)
    wild = image.copy()
    wild[0, 0, :8] = 1e7
    assert np.abs(standardise(wild) - standardise(image))[1:].max() < 0.1


@pytest.mark.parametrize("kind", [np.float64, np.int16])
def test_the_scale_in_the_header_counts(tmp_path: Path, kind: type) -> None:
    case = write_case(tmp_path)
    stored: np.ndarray = np.arange(48 * 48 * 3).reshape(48, 48, 3).astype(kind)
    write_nifti(case.image, stored)
    patch_header(case.image, 112, np.array([2.5, -40.0], np.float32).tobytes())
    image, _, _ = load_frame(case)
    np.testing.assert_allclose(image.transpose(2, 1, 0), 2.5 * stored - 40, rtol=1e-6)


def test_float64_labels_are_read(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    expected = load_frame(case)[1]
    write_nifti(case.label, expected.transpose(2, 1, 0).astype(np.float64))
    np.testing.assert_array_equal(load_frame(case)[1], expected)


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    nifti = nib.load(path)
    assert isinstance(nifti, nib.Nifti1Image)
    write_nifti(path, change(np.asarray(nifti.dataobj)), nifti.affine)


def with_one(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data = data.copy()
        data[5, 6, 1] = value
        return data

    return change


def truncate(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 3, len(content) // 3 + 200):
        content[place] ^= 0xFF
    path.write_bytes(content)


def flatten(path: Path) -> None:
    """Make the affine degenerate: its second axis goes where the first does."""
    affine = np.diag([1.5, 1.5, 8.0, 1.0])
    affine[:3, 1] = affine[:3, 0]
    nifti = nib.load(path)
    assert isinstance(nifti, nib.Nifti1Image)
    write_nifti(path, np.asarray(nifti.dataobj), affine)


def colour(path: Path) -> None:
    write_nifti(path, np.zeros((48, 48, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]))


Spoil = Callable[[Path], object]
BAD: dict[str, tuple[str, Spoil, tuple[str, ...]]] = {
    "label value 7": (
        "label",
        lambda path: rewrite(path, with_one(7)),
        ("label value 7", "expected [0, 1, 2, 3]"),
    ),
    "label between two": (
        "label",
        lambda path: rewrite(path, lambda data: with_one(1.5)(data.astype(float))),
        ("label value 1.5", "expected [0, 1, 2, 3]"),
    ),
    "shapes differ": (
        "label",
        lambda path: rewrite(path, lambda data: data[:-1]),
        ("(47, 48, 3)", "(48, 48, 3)"),
    ),
    "truncated": ("image", truncate, ("cannot be read as NIfTI", "ended before")),
    "truncated label": ("label", truncate, ("cannot be read as NIfTI",)),
    "damaged": ("image", damage, ("cannot be read as NIfTI",)),
    "empty": ("image", lambda path: path.write_bytes(b""), ("cannot be read as NIfTI",)),
    "a text": (
        "image",
        lambda path: path.write_text("no image"),
        ("cannot be read as NIfTI",),
    ),
    "data type that does not exist": (
        "image",
        lambda path: patch_header(path, 70, (9999).to_bytes(2, "little")),
        ("cannot be read as NIfTI", "9999"),
    ),
    "colours": ("image", colour, ("cannot be read as NIfTI",)),
    "NaN": ("image", lambda path: rewrite(path, with_one(np.nan)), ("1 values are NaN", "infin")),
    "infinity": ("image", lambda path: rewrite(path, with_one(np.inf)), ("1 values", "infinite")),
    "NaN in the label": (
        "label",
        lambda path: rewrite(path, lambda data: with_one(np.nan)(data.astype(float))),
        ("label value nan", "expected [0, 1, 2, 3]"),
    ),
    "constant": (
        "image",
        lambda path: rewrite(path, lambda data: np.full_like(data, 3)),
        ("every value is 3", "expected an image"),
    ),
    "four dimensions": (
        "image",
        lambda path: rewrite(path, lambda data: np.stack([data, data], axis=-1)),
        ("(48, 48, 3, 2)", "expected three"),
    ),
    "two dimensions": (
        "image",
        lambda path: rewrite(path, lambda data: data[..., 0]),
        ("(48, 48)", "expected three"),
    ),
    "degenerate affine": ("image", flatten, ("affine is degenerate",)),
}


@pytest.mark.parametrize(("which", "spoil", "words"), BAD.values(), ids=BAD)
def test_a_bad_file_is_a_line_for_people(
    tmp_path: Path, which: str, spoil: Spoil, words: tuple[str, ...]
) -> None:
    case = write_case(tmp_path)
    path: Path = getattr(case, which)
    spoil(path)
    dataset = volumes([case], 1.5, tmp_path / "cache")
    for read in (lambda: load_frame(case), lambda: load_volume(dataset, 0)):
        with pytest.raises(UserError) as error:
            read()
        message = str(error.value)
        assert message.startswith(f"{path}: ")
        assert [word for word in words if word not in message] == []
        assert "\n" not in message
        shown = "".join(traceback.format_exception(error.value))
        assert shown.count("Traceback") == 1  # MONAI's wrapping does not show
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_good_case_passes_the_same_checks(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    assert load_frame(case)[0].shape == (3, 48, 48)


def same(one: Volume, other: Volume) -> bool:
    return set(one) == set(other) and all(
        one[key].dtype == other[key].dtype and torch.equal(one[key], other[key]) for key in one
    )


def read(case: Case, cache: Path | None, spacing_mm: float = 2.0) -> Volume:
    return load_volume(volumes([case], spacing_mm, cache), 0)


def test_what_is_cached_is_what_is_computed(tmp_path: Path) -> None:
    case = write_case(tmp_path)
    computed = read(case, None)
    assert same(read(case, tmp_path / "cache"), computed)
    assert same(read(case, tmp_path / "cache"), computed)


def test_the_second_reading_opens_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    first = read(case, cache)

    def fail(_: Case) -> None:
        raise AssertionError("a file is read")

    monkeypatch.setattr(preprocessing, "read_case", fail)
    assert same(read(case, cache), first)
    with pytest.raises(RuntimeError):
        read(case, None)


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    first = read(case, cache)
    before = case.label.stat()
    rewrite(case.label, lambda data: np.where(data == LV, MYO, data).astype(np.uint8))
    os.utime(case.label, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    second = read(case, cache)
    assert (first["label"] == LV).any()
    assert not (second["label"] == LV).any()


def test_a_file_of_the_same_size_and_another_time_is_read_anew(tmp_path: Path) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    read(case, cache)
    stamp = case.image.stat()
    os.utime(case.image, ns=(stamp.st_atime_ns, stamp.st_mtime_ns + 1))
    read(case, cache)
    assert len(list(cache.iterdir())) == 2


def test_another_spacing_has_its_own_place(tmp_path: Path) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    assert read(case, cache, 2.0)["image"].shape == (3, 1, 36, 36)
    assert read(case, cache, 3.0)["image"].shape == (3, 1, 24, 24)
    assert read(case, cache, 2.0)["image"].shape == (3, 1, 36, 36)
    assert len(list(cache.iterdir())) == 2


def test_another_label_map_has_its_own_place(tmp_path: Path) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    one = read(case, cache)["native_label"]
    other = read(replace(case, label_map=ACDC_LABELS), cache)["native_label"]
    swapped = torch.tensor([BACKGROUND, RV, MYO, LV], dtype=torch.uint8)
    assert torch.equal(other, swapped[one.long()])
    assert not torch.equal(other, one)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_half_written_cache_file_is_computed_anew(tmp_path: Path, share: float) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    first = read(case, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    assert same(read(case, cache), first)
    assert len(file.read_bytes()) == len(whole)


@pytest.mark.parametrize("where", [0.02, 0.3, 0.6, 0.9])
def test_a_flipped_bit_in_the_cache_is_seen(tmp_path: Path, where: float) -> None:
    case, cache = write_case(tmp_path), tmp_path / "cache"
    first = read(case, cache)
    (file,) = cache.iterdir()
    whole = bytearray(file.read_bytes())
    spoilt = first["image"].numpy().tobytes()[:64]  # in the middle of the image's bytes
    at = whole.index(spoilt) + int(where * first["image"].nbytes)
    whole[at] ^= 1
    file.write_bytes(whole)
    assert same(read(case, cache), first)
    whole[at] ^= 1
    assert torch.load(file)["image"].equal(torch.load(io.BytesIO(whole))["image"])


class Evil:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, ("ran",)


def damaged(good: bytes, other: bytes) -> dict[str, bytes]:
    """Return what may be found in place of a good cache file."""
    image = io.BytesIO()
    torch.save({"image": torch.zeros(1)}, image)
    return {
        "rubbish": b"x" * 5000,
        "zeros": bytes(len(good)),
        "zeros at its end": good[:-4096] + bytes(4096),
        "a pickle that runs code": pickle.dumps(Evil()),
        "other tensors": image.getvalue(),
        "another case's volume": other,
    }


def test_a_damaged_cache_file_is_made_anew_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    case, cache = write_case(tmp_path), tmp_path / "cache"
    read(replace(case, frame="ES"), cache)
    (other,) = (path.read_bytes() for path in cache.iterdir())
    next(cache.iterdir()).unlink()
    first = read(case, cache)
    (file,) = cache.iterdir()
    for name, content in damaged(file.read_bytes(), other).items():
        caplog.clear()
        file.write_bytes(content)
        assert same(read(case, cache), first), name
        assert f"{file} is damaged" in caplog.text
        assert same(read(case, cache), first), name
    assert not Path("ran").exists()
