"""The real data sets, where they are: the same structures in the same view."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, center_of_mass

from cardiac.datasets import Case, group_by_site, read_cases
from cardiac.preprocessing import load_frame, load_volume, volumes
from common.labels import LV, MYO, RV

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not in {DATA}"),
]


def some(folder: Path, count: int) -> list[Case]:
    """Return a few cases from all over the folder, ED and ES."""
    cases = read_cases(folder)
    return [cases[index] for index in np.linspace(0, len(cases) - 1, count).astype(int)]


def share_of_myo_around_lv(labels: np.ndarray) -> float:
    inside = labels == LV
    rim = binary_dilation(inside, np.ones((1, 3, 3))) & ~inside
    return float(np.mean(labels[rim] == MYO))


def test_acdc_is_read_whole() -> None:
    cases = read_cases(DATA / "acdc")
    assert len(cases) == 160
    frames = {case.name: case.image.name for case in cases}
    assert frames["patient001 ED"] == "patient001_frame01.nii.gz"
    assert frames["patient001 ES"] == "patient001_frame12.nii.gz"


@pytest.mark.parametrize(
    ("column", "sizes"),
    [
        ("CENTRE", {"centre-1": 120, "centre-2": 80, "centre-3": 40}),
        ("VENDOR", {"Philips": 120, "Siemens": 120}),
    ],
)
def test_mnms_has_three_hospitals_and_two_vendors(column: str, sizes: dict[str, int]) -> None:
    groups = group_by_site(read_cases(DATA / "mnms"), column, DATA / "mnms")
    assert {name: len(cases) for name, cases in groups.items()} == sizes


def test_the_published_mnms2_table_is_read_with_its_padding() -> None:
    cases = read_cases(DATA / "mnms2_sample")
    assert [case.name for case in cases] == ["001 ED", "001 ES"]
    assert list(group_by_site(cases, "VENDOR", DATA)) == ["GE"]


@pytest.mark.parametrize(("name", "count"), [("acdc", 4), ("mnms", 4), ("mnms2_sample", 2)])
def test_the_lv_lies_in_myocardium_with_the_rv_to_its_left(name: str, count: int) -> None:
    for case in some(DATA / name, count):
        labels = load_frame(case)[1]
        assert share_of_myo_around_lv(labels) > 0.8, case.name
        rv, lv = (center_of_mass(labels == structure)[2] for structure in (RV, LV))
        assert rv + 10 < lv, case.name


def test_the_oblique_sample_has_its_true_spacing_and_is_brought_to_the_networks() -> None:
    case = read_cases(DATA / "mnms2_sample")[0]
    volume = load_volume(volumes([case], 1.25, None), 0)
    depth_mm, row_mm, column_mm = volume["native_spacing_mm"].tolist()
    assert row_mm == pytest.approx(column_mm, rel=1e-3)
    assert depth_mm > 3 * row_mm
    height, width = volume["native_label"].shape[1:]
    assert abs(volume["image"].shape[2] * 1.25 - height * row_mm) <= 1.25 / 2
    assert abs(volume["image"].shape[3] * 1.25 - width * column_mm) <= 1.25 / 2
    assert volume["image"].mean().item() == pytest.approx(0, abs=0.05)
