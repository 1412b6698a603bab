"""The measure of rare structures in benchmarks/rare.py."""

import math

import numpy as np
import torch

from benchmarks.rare import CaseScore, apical, summary
from cardiac.evaluation import dice
from common.labels import LV, RV


def heart(*lv_pixels: int) -> torch.Tensor:
    """Return labels (z, 1, 8): an RV of one pixel everywhere, an LV of so many."""
    label = torch.zeros(len(lv_pixels), 1, 8, dtype=torch.uint8)
    for index, pixels in enumerate(lv_pixels):
        label[index, 0, :pixels], label[index, 0, 7] = LV, RV
    return label


def test_the_apex_is_where_the_lv_is_smaller_whichever_way_the_stack_goes() -> None:
    assert apical(heart(5, 4, 4, 3, 2, 1)).tolist() == [5, 4]
    assert apical(heart(1, 2, 3, 4)).tolist() == [0]
    assert apical(torch.zeros(3, 1, 8)).tolist() == []


def test_dice_of_some_slices() -> None:
    truth = heart(2, 2)
    assert dice(truth, truth)[LV - 1] == 1.0
    assert dice(heart(1, 2), truth)[LV - 1] == np.float32(6 / 7)
    assert math.isnan(dice(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1))[RV - 1])


def test_small_hearts_are_the_third_with_the_least_volume_at_end_diastole() -> None:
    sizes = {"a": 300.0, "b": 100.0, "c": 200.0}
    scores = [
        CaseScore(name, frame, ml / shrunk, ml / 1e3, 0.5, math.nan)
        for name, ml in sizes.items()
        for frame, shrunk in (("ED", 1), ("ES", 4))
    ]
    scores[0] = CaseScore("a", "ED", 300.0, 0.3, 0.5, 0.25)
    assert summary(scores) == (0.5, 0.25, 0.1, 0.25)
