"""What is drawn is where the labels are."""

from pathlib import Path

import numpy as np
from PIL import Image

from cardiac.pictures import (
    COLORS,
    montage,
    outline,
    overlay,
    save_animation,
    save_png,
    to_grey,
)
from common.labels import LV, RV


def square(size: int, low: int, high: int, label: int) -> np.ndarray:
    labels = np.zeros((size, size), np.uint8)
    labels[low:high, low:high] = label
    return labels


def test_outline_is_the_border_pixels_and_nothing_inside() -> None:
    edge = outline(square(7, 1, 6, 1) == 1)
    assert edge.sum() == 5 * 5 - 3 * 3
    assert not edge[2:5, 2:5].any()


def test_a_structure_cut_by_the_frame_is_outlined_at_the_frame() -> None:
    assert outline(np.ones((4, 4), bool)).sum() == 12


def test_overlay_colours_only_the_outline_of_each_structure() -> None:
    grey = np.full((8, 8), 100, np.uint8)
    picture = overlay(grey, square(8, 2, 6, RV), scale=3)
    assert picture.shape == (24, 24, 3)
    coloured = (picture == COLORS[RV]).all(axis=2)
    assert coloured.sum() == 12 * 12 - 10 * 10
    assert (picture[~coloured] == 100).all()


def test_truth_is_white_and_seen_only_where_it_differs() -> None:
    grey = np.zeros((8, 8), np.uint8)
    same = overlay(grey, square(8, 2, 6, LV), square(8, 2, 6, LV))
    assert not (same == 255).all(axis=2).any()
    other = overlay(grey, square(8, 2, 6, LV), square(8, 1, 7, LV))
    assert (other == 255).all(axis=2).any()


def test_grey_stretches_the_middle_and_survives_bad_values() -> None:
    ramp = np.linspace(-5, 5, 1000)
    ramp[0], ramp[1] = np.nan, 1e30
    grey = to_grey(ramp)
    assert grey[0] == 0
    assert grey[1] == 255
    assert (np.diff(grey[2:].astype(int)) >= 0).all()
    assert to_grey(np.full((3, 3), 7.0)).max() == 0
    assert to_grey(np.full((3, 3), np.nan)).max() == 0


def test_montage_places_every_picture_in_reading_order(tmp_path: Path) -> None:
    pictures = [np.full((10, 12, 3), 50 + 50 * n, np.uint8) for n in range(3)]
    sheet = montage(pictures, columns=2, captions=["a", "b", "c"])
    means = [sheet[18:28, 2:14].mean(), sheet[18:28, 16:28].mean(), sheet[46:56, 2:14].mean()]
    assert means == [50, 100, 150]
    save_png(sheet, tmp_path / "sheet.png")
    assert (np.asarray(Image.open(tmp_path / "sheet.png")) == sheet).all()


def test_animation_holds_every_frame(tmp_path: Path) -> None:
    frames = [np.full((6, 6, 3), 40 * n, np.uint8) for n in range(5)]
    save_animation(frames, tmp_path / "beat.png")
    with Image.open(tmp_path / "beat.png") as picture:
        assert getattr(picture, "n_frames", 1) == 5
        picture.seek(3)
        assert np.asarray(picture.convert("RGB")).mean() == 120
