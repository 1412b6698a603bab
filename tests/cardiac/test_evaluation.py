"""Dice and HD95 agree with values worked out by hand, on the grid of the files."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardiac.datasets import read_cases
from cardiac.evaluation import Scores, evaluate, predict_labels, predict_logits
from cardiac.preprocessing import Volume, load_volume, volumes
from common.labels import LV, MYO, NUM_CLASSES, RV
from tests.cardiac.samples import heart_labels

CPU = torch.device("cpu")


class Seer(nn.Module):
    """A model whose input holds labels in place of intensities, which it predicts."""

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-1] % 16 == image.shape[-2] % 16 == 0
        labels = image[:, 0].round().long()
        return 50.0 * F.one_hot(labels, NUM_CLASSES).permute(0, 3, 1, 2)


def seen(
    prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float] = (8, 1, 1)
) -> Volume:
    """Return a volume for which a ``Seer`` predicts ``prediction``."""
    return Volume(
        image=torch.from_numpy(prediction)[:, None].float(),
        native_label=torch.from_numpy(truth),
        native_spacing_mm=torch.tensor(spacing_mm, dtype=torch.float32),
    )


def score(*cases: Volume) -> Scores:
    return evaluate(Seer(), cases, CPU, hd95=True)


def test_a_perfect_prediction_scores_1_and_0_mm() -> None:
    truth = heart_labels(40, 3)
    scores = score(seen(truth, truth))
    np.testing.assert_array_equal(scores.dice, [[1, 1, 1]])
    np.testing.assert_array_equal(scores.hd95_mm, [[0, 0, 0]])
    assert scores.mean_dice == 1


def test_dice_is_twice_the_overlap_over_both_sizes() -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 4, (2, 3, 21, 17)).astype(np.uint8) for _ in range(4)]
    scores = evaluate(Seer(), [seen(*pair) for pair in pairs], CPU, hd95=False)
    for (prediction, truth), dice in zip(pairs, scores.dice, strict=True):
        for label, value in zip((LV, MYO, RV), dice, strict=True):
            one, other = prediction == label, truth == label
            assert value == pytest.approx(2 * (one & other).sum() / (one.sum() + other.sum()))
    assert scores.hd95_mm.size == 0
    assert "hd95_mm" not in scores.summary()


def box(where: tuple[slice, slice, slice]) -> np.ndarray:
    labels = np.zeros((8, 40, 48), np.uint8)
    labels[where] = LV
    return labels


@pytest.mark.parametrize(
    ("shift", "distance_mm"),
    [((0, 0, 5), 5 * 0.5), ((0, 4, 0), 4 * 1.5), ((2, 0, 0), 2 * 9.0), ((0, 4, 8), np.hypot(6, 4))],
    ids=["across", "down", "through", "both"],
)
def test_hd95_of_a_shifted_line_is_the_shift_in_mm(
    shift: tuple[int, int, int], distance_mm: float
) -> None:
    """A line shifted across its length, so that each of its points is as far as the others."""
    z, row, column = shift
    along_z = z == 0
    zs, row_0, column_0 = (slice(0, 8) if along_z else slice(3, 4)), 10, 10
    rows = slice(row_0, row_0 + 1) if along_z else slice(5, 35)
    truth = box((zs, rows, slice(column_0, column_0 + 1)))
    moved = np.roll(truth, (z, row, column), axis=(0, 1, 2))
    scores = score(seen(moved, truth, (9.0, 1.5, 0.5)))
    assert scores.hd95_mm[0, LV - 1] == pytest.approx(distance_mm)
    assert scores.dice[0, LV - 1] == 0


def test_hd95_of_shifted_squares_leaves_the_farthest_twentieth_out() -> None:
    side, shift, pixel_mm = 20, 24, 0.5
    truth = box((slice(2, 3), slice(5, 5 + side), slice(0, side)))
    moved = np.roll(truth, shift, axis=2)
    scores = score(seen(moved, truth, (9.0, 1.5, pixel_mm)))
    # a slice's voxels are all surface; a column's are this far from the other square's edge
    farness_mm = pixel_mm * (shift - np.arange(side))
    expected = np.percentile(np.repeat(farness_mm, side), 95)
    assert expected < farness_mm.max()
    assert scores.hd95_mm[0, LV - 1] == pytest.approx(expected)


def test_a_missed_structure_counts_as_the_diagonal_of_the_volume() -> None:
    truth = heart_labels(40, 3)
    blind = np.where(truth == RV, 0, truth).astype(np.uint8)
    scores = score(seen(blind, truth, (10.0, 1.5, 1.2)))
    assert scores.dice[0].tolist() == [1, 1, 0]
    diagonal = np.sqrt((3 * 10.0) ** 2 + (40 * 1.5) ** 2 + (40 * 1.2) ** 2)
    assert scores.hd95_mm[0, RV - 1] == pytest.approx(diagonal)


@pytest.mark.parametrize("hallucinated", [False, True])
def test_a_structure_that_is_not_there_is_left_out(hallucinated: bool) -> None:
    whole = heart_labels(40, 3)
    truth = np.where(whole == RV, 0, whole).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(seen(whole if hallucinated else truth, truth), seen(whole, whole))
        summary = scores.summary()
    assert np.isnan(scores.dice[0, RV - 1])
    assert np.isnan(scores.hd95_mm[0, RV - 1])
    assert summary["dice"] == {"LV": 1.0, "MYO": 1.0, "RV": 1.0, "mean": 1.0}
    assert summary["hd95_mm"]["RV"] == 0
    assert scores.mean_dice == 1


def test_a_structure_that_no_case_has_is_nan_and_the_mean_does_without() -> None:
    truth = np.where(heart_labels(40, 3) == RV, 0, heart_labels(40, 3)).astype(np.uint8)
    summary = score(seen(truth, truth)).summary()
    assert np.isnan(summary["dice"]["RV"])
    assert summary["dice"]["mean"] == 1


def test_the_mean_is_over_structures_and_then_over_volumes() -> None:
    dice = np.array([[1.0, 0.4, np.nan], [0.3, 0.6, 0.9], [np.nan, np.nan, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a volume without any structure is nobody's mistake
        scores = Scores(dice, np.empty((0, 3)))
        assert scores.mean_dice == pytest.approx((0.7 + 0.6) / 2)
        summary = scores.summary()["dice"]
    assert summary == pytest.approx({"LV": 0.65, "MYO": 0.5, "RV": 0.9, "mean": 0.65})


def test_a_structure_can_be_left_out_of_all_scores() -> None:
    dice = np.array([[1.0, 0.4, 0.0], [0.5, 0.6, 0.0]])
    scores = Scores(dice, 10 * dice).without(np.array([False, False, True]))
    assert scores.mean_dice == pytest.approx(0.625)
    assert np.isnan(scores.summary()["dice"]["RV"])
    assert np.isnan(scores.summary()["hd95_mm"]["RV"])
    plain = Scores(dice, np.empty((0, 3))).without(np.array([False, False, True]))
    assert "hd95_mm" not in plain.summary()


@pytest.mark.parametrize("size", [(48, 32), (33, 47), (17, 80), (16, 16), (5, 9), (1, 1)])
def test_slices_of_any_size_are_segmented(unet: nn.Module, size: tuple[int, int]) -> None:
    image = torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0))
    assert predict_logits(unet, image, CPU).shape == (2, NUM_CLASSES, *size)
    labels = predict_labels(unet, image, (51, 29), CPU)
    assert labels.shape == (2, 51, 29)
    assert labels.dtype == torch.uint8


def test_padding_does_not_move_what_is_seen() -> None:
    truth = heart_labels(37, 2)[:, :29]
    image = torch.from_numpy(truth)[:, None].float()
    assert torch.equal(predict_labels(Seer(), image, (29, 37), CPU), torch.from_numpy(truth))


def test_slices_of_a_good_size_are_given_to_the_model_as_they_are(unet: nn.Module) -> None:
    image = torch.randn(2, 1, 48, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(predict_logits(unet, image, CPU), unet(image))


def test_a_model_that_knows_the_truth_scores_almost_1_on_the_files_own_grid(
    phantom_dir: Path,
) -> None:
    """There and back through the network's grid, for each vendor's orientation and spacing."""
    cases = read_cases(phantom_dir / "mnms2")
    chosen = {case.info["VENDOR"]: case for case in cases if case.frame == "ED"}
    assert len(chosen) == 3
    dataset = volumes(chosen.values(), 1.25, None)
    for index, case in enumerate(chosen.values()):
        volume = load_volume(dataset, index)
        assert volume["label"].shape[2:] != volume["native_label"].shape[1:]
        scores = score(Volume({**volume, "image": volume["label"].float()}))
        assert scores.dice.min() > 0.95, case.name
        assert scores.hd95_mm.max() < 2.0, case.name


def test_the_model_is_put_into_evaluation_mode(unet: nn.Module) -> None:
    truth = heart_labels(32, 1)
    evaluate(unet.train(), [seen(truth, truth)], CPU, hd95=False)
    assert not unet.training
