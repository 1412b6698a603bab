"""Pictures of a study: all slices, the heart in the middle, a beat of equal frames."""

from pathlib import Path

import numpy as np

from cardiac.segmentation import Scan, read_scan
from cardiac.study_pictures import Moment, beat_frames, heart_box, lv_levels, overlay_sheet
from common.labels import LV, MYO
from tests.cardiac.samples import heart_image, heart_labels, write_nifti


def scan_of(folder: Path, frames: list[np.ndarray]) -> tuple[Scan, np.ndarray]:
    """Return a cine of labels (z, H, W) and those labels as stored, (i, j, k, t)."""
    stored = np.stack([frame.transpose(2, 1, 0) for frame in frames], axis=-1)
    return read_scan(write_nifti(folder / "cine.nii.gz", heart_image(stored))), stored


def colours(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in picture.reshape(-1, 3).tolist()}


def test_the_heart_is_shown_with_a_margin() -> None:
    labels = np.zeros((4, 100, 120), np.uint8)
    labels[2, 40:60, 50:80] = MYO
    box = heart_box(labels, np.array([8.0, 2.5, 1.25]))
    assert box == (slice(None), slice(30, 70), slice(30, 100))
    labels[0, 2, 119] = LV
    assert heart_box(labels, np.array([8.0, 2.5, 1.25]))[1:] == (slice(0, 70), slice(30, 140))
    assert labels[heart_box(0 * labels, np.ones(3))].shape == labels.shape


def test_base_and_apex_are_told_apart_by_the_lv() -> None:
    labels = np.zeros((12, 30, 30), np.uint8)
    for number, radius in enumerate([10, 10, 9, 9, 8, 8, 6, 4, 2]):
        labels[number + 1, :radius, :radius] = LV
    assert lv_levels(labels) == {"base": 3, "middle": 5, "apex": 7}
    assert lv_levels(labels[::-1]) == {"base": 8, "middle": 6, "apex": 4}
    assert set(lv_levels(0 * labels).values()) <= set(range(12))


def test_a_sheet_shows_every_slice_of_every_moment(tmp_path: Path) -> None:
    truth = heart_labels(48, 4)
    scan, labels = scan_of(tmp_path, [truth, truth])
    one = overlay_sheet([Moment("ED", scan, labels, 0)])
    two = overlay_sheet([Moment("ED", scan, labels, 0), Moment("ES", scan, labels, 1)])
    half, half_labels = scan_of(tmp_path, [truth[:2]])
    slices = overlay_sheet([Moment("ED", half, half_labels, 0)])
    assert two.shape[0] > 1.9 * one.shape[0]
    assert one.shape[1] > 1.8 * slices.shape[1]
    assert {(255, 77, 77), (64, 224, 96), (77, 160, 255)} <= colours(one)
    assert not {(255, 77, 77)} & colours(overlay_sheet([Moment("", scan, 0 * labels, 0)]))


def test_frames_of_a_beat_are_of_one_size_and_show_what_moves(tmp_path: Path) -> None:
    large, small = heart_labels(48, 5), heart_labels(48, 5)
    small[small == LV] = MYO
    small[:, 22:26, 27:31] = LV
    scan, labels = scan_of(tmp_path, [large, small, large])
    frames = beat_frames(scan, labels, 0)
    assert len(frames) == 3
    assert len({frame.shape for frame in frames}) == 1
    red = [np.sum((frame == (255, 77, 77)).all(axis=2)) for frame in frames]
    assert red[0] > red[1] > 0
    assert red[2] == red[0]
    assert (frames[0] != frames[1]).any()
