"""Anatomy and orientation decided on arrays alone."""

from itertools import permutations

import numpy as np
import pytest

from cardiac.inspection import anatomy, grid, orientation
from cardiac.inspection.intensities import ascending, digest, quantiles
from cardiac.inspection.thumbnails import SIDE, thumbnails
from common.labels import LV, MYO, RV
from tests.cardiac.samples import heart_image, heart_labels

MM = np.array([1.5, 1.5, 8.0])
STORED = np.diag([*MM, 1.0])


def heart(slices: int = 6) -> np.ndarray:
    """Return labels (i, j, k) of a heart on the scanner's axes."""
    return np.ascontiguousarray(heart_labels(64, slices).transpose(2, 1, 0))


@pytest.mark.parametrize("numbers", list(permutations((1, 2, 3))))
def test_the_roles_of_labels_are_seen_whatever_their_numbers(
    numbers: tuple[int, int, int],
) -> None:
    renumbered = np.array([0, *numbers])[heart()]
    assert anatomy.played_by(anatomy.rims(renumbered)) == numbers


def test_without_a_closed_ring_nothing_is_said_of_the_numbering() -> None:
    labels = heart()
    labels[labels == MYO] = 0
    assert anatomy.played_by(anatomy.rims(labels)) is None


def test_slices_without_all_three_structures_say_nothing() -> None:
    labels = heart()
    expected = anatomy.rims(labels)
    labels[..., 0][labels[..., 0] == MYO] = 0  # as at the base
    np.testing.assert_array_equal(anatomy.rims(labels), expected)


def test_the_rim_of_the_lv_is_all_myo_and_shares_sum_to_one() -> None:
    shares = anatomy.rims(heart())
    assert shares[LV, MYO] == 1
    assert 0 < shares[RV, MYO] < 0.6
    np.testing.assert_allclose(shares[[LV, MYO, RV]].sum(axis=1), 1)


def test_pieces_are_measured() -> None:
    mask = np.zeros((40, 40, 3), bool)
    mask[2:12, 2:12, 0] = True
    assert anatomy.second_piece(mask) == 0
    assert anatomy.farthest_piece_mm(mask, MM) == 0
    mask[32:37, 2:7, 2] = True
    assert anatomy.second_piece(mask) == pytest.approx(25 / 125)
    assert anatomy.farthest_piece_mm(mask, MM) == pytest.approx(20 * 1.5)


def test_holes_are_enclosed_in_a_slice_and_not_only_in_space() -> None:
    mask = np.ones((9, 9, 3), bool)
    mask[0] = mask[-1] = mask[:, 0] = mask[:, -1] = False
    assert anatomy.holes(mask) == 0
    mask[4, 4, 1] = False
    assert anatomy.holes(mask) == pytest.approx(1 / (3 * 49 - 1))
    mask[4, :5, 1] = False  # open to the side
    assert anatomy.holes(mask) == 0


def test_missing_slices_are_those_between() -> None:
    mask = np.zeros((2, 2, 7), bool)
    assert anatomy.missing_slices(mask) == 0
    mask[..., [1, 2, 5]] = True
    assert anatomy.missing_slices(mask) == 2


@pytest.mark.parametrize(("axis", "degrees"), [(None, 0), (0, 180)])
def test_the_rv_lies_left_unless_the_pixels_are_mirrored(axis: int | None, degrees: float) -> None:
    labels = heart() if axis is None else np.flip(heart(), axis)
    angle = orientation.rv_direction_deg(labels, STORED)
    assert angle is not None
    assert abs(abs(angle) - degrees) < 5


def test_where_the_rv_lies_does_not_depend_on_how_the_slices_are_stored() -> None:
    flip = np.diag([-1.0, 1, 1, 1])
    swap = np.eye(4)[[1, 0, 2, 3]]
    expected = orientation.rv_direction_deg(heart(), STORED)
    for stored, affine in (
        (heart()[::-1], STORED @ flip),
        (heart().swapaxes(0, 1), STORED @ swap),
        (heart().swapaxes(0, 1)[:, ::-1], STORED @ swap @ np.diag([1.0, -1, 1, 1])),
    ):
        assert orientation.rv_direction_deg(stored, affine) == pytest.approx(expected)


@pytest.mark.parametrize(("angles", "found"), [([-20, 0, 10], 0), ([60, 70, 75], 1)])
def test_most_cases_of_a_site_turned_alike_are_found(angles: list[float], found: int) -> None:
    assert len(list(orientation.check_most(angles))) == found


def test_slices_along_another_axis_than_the_third_are_found() -> None:
    assert [code for code, _ in grid.check_grid((10, 192, 192), np.array([8, 1.5, 1.5]))] == [
        "slice-axis"
    ]
    assert list(grid.check_grid((192, 192, 10), np.array([1.5, 1.5, 8]))) == []


def test_digests_know_a_copy_from_a_turned_copy_and_from_another_image() -> None:
    image = heart_image(heart()).astype(np.float32)
    known = digest(image), digest(ascending(image))
    turned = image[::-1].swapaxes(0, 1)
    assert digest(np.asfortranarray(image)) == known[0]
    assert digest(turned) != known[0]
    assert digest(ascending(turned)) == known[1]
    image[3, 3, 3] += 1
    assert not {digest(image), digest(ascending(image))} & set(known)


def test_quantiles_are_percentiles() -> None:
    values = np.random.default_rng(0).permutation(1001).astype(np.float32)
    assert quantiles(ascending(values)) == [10, 500, 990]


def test_thumbnails_show_image_and_label_alike() -> None:
    labels = heart()
    image = (labels > 0).astype(np.float32)
    pictures = thumbnails(image, labels, STORED)
    assert pictures.grey.shape == pictures.label.shape == (3, SIDE, SIDE)
    assert set(np.unique(pictures.label)) == {0, LV, MYO, RV}
    bright = pictures.grey > 127
    assert np.mean(bright == (pictures.label > 0)) > 0.98
    columns = [np.argwhere(pictures.label[1] == part)[:, 1].mean() for part in (RV, LV)]
    assert columns[0] + 10 < columns[1]
