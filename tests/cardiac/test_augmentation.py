"""Random changes of training slices."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, get_track_meta
from torch import Tensor

from cardiac.augmentation import plain_tensors, training_transform
from tests.cardiac.samples import heart_volume

Slice = dict[str, Tensor]


def heart_slice(size: int = 48) -> Slice:
    volume = heart_volume(size, slices=1)
    return {"image": volume["image"][0], "label": volume["label"][0]}


def draw(seed: int, count: int = 1, size: int = 48, image_size: int = 48) -> list[Slice]:
    transform = training_transform(image_size, augment=True, seed=seed)
    return [transform(heart_slice(size)) for _ in range(count)]


def centre(mask: Tensor) -> np.ndarray:
    middle: np.ndarray = np.argwhere(np.asarray(mask)).mean(axis=0)
    return middle


def test_the_same_seed_gives_the_same_slices_whatever_else_draws_numbers() -> None:
    first = draw(seed=3, count=12)
    np.random.seed(99)  # noqa: NPY002
    torch.manual_seed(99)
    for one, other in zip(first, draw(seed=3, count=12), strict=True):
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["label"], other["label"])


def test_seeds_and_draws_differ() -> None:
    images = [item["image"] for seed in range(3) for item in draw(seed, count=3)]
    pairs = [(a, b) for n, a in enumerate(images) for b in images[:n]]
    assert not any(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize(("height", "width"), [(48, 48), (20, 70), (31, 33), (90, 64)])
def test_slices_come_in_the_asked_size(augment: bool, height: int, width: int) -> None:
    transform = training_transform(32, augment, seed=0)
    item = transform({"image": torch.rand(1, height, width), "label": torch.ones(1, height, width)})
    assert item["image"].shape == item["label"].shape == (1, 32, 32)


def test_labels_stay_labels_and_values_stay_finite() -> None:
    for item in draw(seed=1, count=20):
        assert set(torch.unique(item["label"]).tolist()) <= {0, 1, 2, 3}
        assert torch.isfinite(item["image"]).all()


def test_the_heart_stays_in_the_picture() -> None:
    for item in draw(seed=2, count=20):
        assert torch.unique(item["label"]).tolist() == [0, 1, 2, 3]


def test_image_and_label_move_together() -> None:
    transform = training_transform(64, augment=True, seed=4)
    label = torch.zeros(1, 64, 64, dtype=torch.uint8)
    label[:, 14:30, 36:46] = 2
    places = []
    for _ in range(20):
        item = transform({"image": 4.0 * (label == 2) - 1, "label": label})
        blob = item["label"][0] == 2
        image = item["image"][0]
        bright = image > (image[blob].mean() + image[~blob].mean()) / 2
        overlap = (bright & blob).sum() / (bright | blob).sum()
        assert overlap > 0.75
        np.testing.assert_allclose(centre(bright), centre(blob), atol=1.5)
        places.append(centre(blob))
    assert (np.std(places, axis=0) > 1.5).all()  # so it did move


def test_hearts_are_turned_and_scaled_but_never_mirrored() -> None:
    for item in draw(seed=5, count=20):
        label = item["label"][0]
        assert centre(label == 3)[1] < centre(label == 1)[1]  # RV stays to the left of the LV


def test_without_augmentation_a_large_slice_is_cropped_around_its_centre() -> None:
    item = heart_slice(48)
    cropped = training_transform(32, augment=False, seed=0)(item)
    assert torch.equal(cropped["image"], item["image"][:, 8:40, 8:40])
    assert torch.equal(cropped["label"], item["label"][:, 8:40, 8:40])


def test_without_augmentation_a_small_slice_is_padded_with_its_edge() -> None:
    item = heart_slice(24)
    padded = training_transform(32, augment=False, seed=0)(item)
    around = torch.nn.functional.pad(item["image"][None], (4, 4, 4, 4), mode="replicate")[0]
    assert torch.equal(padded["image"], around)
    assert torch.equal(padded["label"][:, 4:28, 4:28], item["label"])


def test_hearts_are_shifted_along_both_axes() -> None:
    transform = training_transform(60, augment=True, seed=6)
    label = torch.zeros(1, 60, 60)
    label[:, 27:33, 27:33] = 1  # turning and scaling leave the middle where it is
    item = {"image": 1.0 * label, "label": label}
    moves = np.array([centre(transform(item)["label"][0] == 1) - 29.5 for _ in range(60)])
    reach = np.abs(moves).max(axis=0)
    assert (reach > 4.5).all()
    assert (reach < 7).all()  # a tenth of the slice


def test_without_metadata_slices_are_the_same_and_plain() -> None:
    tracked = draw(seed=3, count=20)
    with plain_tensors():
        plain = draw(seed=3, count=20)
    assert get_track_meta()
    for one, other in zip(tracked, plain, strict=True):
        for key in ("image", "label"):
            assert not isinstance(other[key], MetaTensor)
            assert torch.equal(torch.as_tensor(one[key]), other[key])
