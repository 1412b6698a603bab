"""Volumes count voxels, function comes from ED and ES, and a missing structure gives neither."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest

from cardiac.clinical import (
    MYO_DENSITY_G_PER_ML,
    NOT_MEASURED,
    Function,
    ed_es_frames,
    heart_function,
    volumes_ml,
)
from cardiac.datasets import read_cases
from cardiac.preprocessing import load_frame
from common.labels import LV, MYO, RV
from tests.cardiac.test_real_data import DATA

PUBLISHED = {  # LV EDV and ESV in ml, EF in percent
    "patient001": (294.9, 225.4, 23.6),
    "patient002": (266.0, 188.9, 29.0),
    "patient003": (276.5, 240.4, 13.0),
}


def test_volumes_are_voxels_counted() -> None:
    labels = np.zeros((4, 10, 12), np.uint8)
    labels[1:3, 2:7, 3:6] = LV  # 2 * 5 * 3 voxels
    labels[1:3, 7, 3:6] = MYO  # 2 * 3
    labels[0, 0, 0] = RV
    found = volumes_ml(labels, [8.0, 1.5, 1.25])
    voxel_ml = 8.0 * 1.5 * 1.25 / 1000
    assert found == pytest.approx({"LV": 30 * voxel_ml, "MYO": 6 * voxel_ml, "RV": voxel_ml})


def test_the_order_of_the_axes_does_not_matter() -> None:
    labels = np.random.default_rng(0).integers(0, 4, (3, 5, 7))
    spacing_mm = [9.0, 1.2, 1.4]
    expected = volumes_ml(labels, spacing_mm)
    for axes in itertools.permutations(range(3)):
        turned = volumes_ml(labels.transpose(axes), [spacing_mm[axis] for axis in axes])
        assert turned == pytest.approx(expected)


def test_a_structure_that_is_not_there_has_no_volume_and_gives_no_function() -> None:
    found = volumes_ml(np.full((2, 2, 2), LV), [8.0, 1.0, 1.0])
    assert found["LV"] == pytest.approx(0.064)
    assert math.isnan(found["MYO"])
    assert math.isnan(found["RV"])
    empty = heart_function(found, NOT_MEASURED)
    assert empty.lv.edv_ml == pytest.approx(0.064)
    for value in (empty.lv.ejection_fraction_percent, empty.lv.stroke_volume_ml, empty.myo_g):
        assert math.isnan(value)
    assert math.isnan(Function(0.0, 0.0).ejection_fraction_percent)


def test_function_of_round_numbers() -> None:
    beat = Function(120.0, 48.0)
    assert beat.stroke_volume_ml == 72.0
    assert beat.ejection_fraction_percent == pytest.approx(60.0)


def test_the_heart_is_measured_at_two_frames_and_the_muscle_at_the_first() -> None:
    ed, es = {"LV": 150.0, "MYO": 100.0, "RV": 170.0}, {"LV": 60.0, "MYO": 95.0, "RV": 85.0}
    heart = heart_function(ed, es)
    assert heart.lv == Function(150.0, 60.0)
    assert heart.rv.ejection_fraction_percent == pytest.approx(50.0)
    assert heart.myo_g == pytest.approx(105.0)
    assert MYO_DENSITY_G_PER_ML == 1.05


def test_ed_is_the_largest_lv_and_es_the_smallest_wherever_the_beat_begins() -> None:
    beat = [140.0, 120.0, 80.0, 55.0, math.nan, 90.0, 130.0]
    for shift in range(len(beat)):
        lv_ml = beat[shift:] + beat[:shift]
        assert ed_es_frames(lv_ml) == (lv_ml.index(140.0), lv_ml.index(55.0))


@pytest.mark.parametrize("lv_ml", [[100.0], [90.0, 90.0], [math.nan, math.nan], [math.nan, 5.0]])
def test_where_no_two_volumes_differ_there_is_neither_ed_nor_es(lv_ml: list[float]) -> None:
    assert ed_es_frames(lv_ml) is None


@pytest.mark.data
@pytest.mark.parametrize("patient", PUBLISHED)
def test_acdcs_own_labels_give_the_published_function(patient: str) -> None:
    folder = DATA / "acdc" / "training" / patient
    if not Path(folder).is_dir():
        pytest.skip(f"{folder} is not there")
    frames = {}
    for case in read_cases(DATA / "acdc"):
        if case.patient == patient:
            _, labels, spacing_mm = load_frame(case)
            frames[case.frame] = volumes_ml(labels, spacing_mm)
    lv = heart_function(frames["ED"], frames["ES"]).lv
    edv_ml, esv_ml, ef_percent = PUBLISHED[patient]
    assert lv.edv_ml == pytest.approx(edv_ml, rel=0.01)
    assert lv.esv_ml == pytest.approx(esv_ml, rel=0.01)
    assert lv.ejection_fraction_percent == pytest.approx(ef_percent, rel=0.01)
