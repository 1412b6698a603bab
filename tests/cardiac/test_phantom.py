"""Properties of the phantom: layouts, anatomy, looks, seeding, refusals."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from cardiac.phantom import SOURCE, VENDORS, write_acdc, write_mnms2, write_phantom
from cardiac.phantom.scanner import blend
from common.errors import UserError

SIEMENS, PHILIPS, GE = "SIEMENS", "Philips Medical Systems", "GE MEDICAL SYSTEMS"
ACDC = {"RV": 1, "MYO": 2, "LV": 3}
MNMS2 = {"LV": 1, "MYO": 2, "RV": 3}

# The view's axes in the scanner's LPS coordinates; written out here so that the test does not
# lean on what it tests
RIGHT, DOWN = np.array([0.85, 0.5, 0.0]), np.array([-0.375, 0.375, -0.85])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both layouts with every disease and vendor, made once."""
    out = tmp_path_factory.mktemp("phantom")
    write_phantom(out, seed=3, acdc_patients=5, patients={SIEMENS: 2, PHILIPS: 2, GE: 2})
    return out


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    nifti: Any = nib.load(path)
    return np.asanyarray(nifti.dataobj), nifti.affine


def standard_view(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn (i, j, k) to (right, down, k), each axis to the nearest direction of the affine."""
    directions = affine[:3, :2] / np.linalg.norm(affine[:3, :2], axis=0)
    right, down = RIGHT @ directions, DOWN @ directions
    if abs(right[1]) > abs(right[0]):
        array, right, down = array.swapaxes(0, 1), right[::-1], down[::-1]
    return array[:: int(np.sign(right[0])), :: int(np.sign(down[1]))]


def millilitres(labels: np.ndarray, affine: np.ndarray, value: int) -> float:
    return float(np.sum(labels == value) * abs(np.linalg.det(affine[:3, :3])) / 1000)


def acdc_patients(root: Path) -> list[tuple[dict[str, str], dict[str, Path]]]:
    """Info.cfg and the label files by frame of every patient."""
    patients = []
    for folder in sorted((root / "acdc" / "training").iterdir()):
        lines = (folder / "Info.cfg").read_text().splitlines()
        info = dict(line.split(": ") for line in lines)
        gts = {f: folder / f"{folder.name}_frame{int(info[f]):02d}_gt.nii.gz" for f in ("ED", "ES")}
        patients.append((info, gts))
    return patients


def mnms2_rows(root: Path) -> list[dict[str, str]]:
    with (root / "mnms2" / "dataset_information.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["SUBJECT_CODE"]]


def mnms2_stem(root: Path, row: dict[str, str], frame: str) -> str:
    code = f"{int(row['SUBJECT_CODE']):03d}"
    return str(root / "mnms2" / "dataset" / code / f"{code}_SA_{frame}")


def gt_files(root: Path) -> Iterator[tuple[Path, dict[str, int]]]:
    """Every label file with its data set's numbers."""
    yield from ((gt, ACDC) for _, gts in acdc_patients(root) for gt in gts.values())
    yield from (
        (Path(mnms2_stem(root, row, frame) + "_gt.nii.gz"), MNMS2)
        for row in mnms2_rows(root)
        for frame in ("ED", "ES")
    )


def everything(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_acdc_layout_is_the_official_one(phantom: Path) -> None:
    patients = acdc_patients(phantom)
    assert [info["Group"] for info, _ in patients] == ["NOR", "DCM", "HCM", "MINF", "RV"]
    assert all(
        list(info) == ["ED", "ES", "Group", "Height", "NbFrame", "Weight"]
        and 1 <= int(info["ED"]) < int(info["ES"]) <= int(info["NbFrame"])
        for info, _ in patients
    )
    expected = {
        path
        for _, gts in patients
        for gt in gts.values()
        for path in (gt, gt.with_name(gt.name.replace("_gt", "")), gt.with_name("Info.cfg"))
    }
    assert {path for path in (phantom / "acdc").rglob("*") if path.is_file()} == expected


def test_mnms2_layout_is_the_official_one(phantom: Path) -> None:
    table = (phantom / "mnms2" / "dataset_information.csv").read_text().splitlines()
    assert table[0] == "SUBJECT_CODE,DISEASE,VENDOR,SCANNER,FIELD"
    assert table[1] == "1,NOR,SIEMENS,Avanto,1.5"
    assert table[-1] == ",,,,"
    rows = mnms2_rows(phantom)
    assert [row["VENDOR"] for row in rows] == [SIEMENS] * 2 + [PHILIPS] * 2 + [GE] * 2
    expected = {
        Path(mnms2_stem(phantom, row, frame) + end)
        for row in rows
        for frame in ("ED", "ES")
        for end in (".nii.gz", "_gt.nii.gz")
    }
    assert set((phantom / "mnms2" / "dataset").rglob("*.nii.gz")) == expected


def test_image_and_labels_share_the_grid(phantom: Path) -> None:
    for path, values in gt_files(phantom):
        labels, affine = read(path)
        image, image_affine = read(path.with_name(path.name.replace("_gt", "")))
        assert image.shape == labels.shape
        np.testing.assert_array_equal(image_affine, affine)
        assert set(np.unique(labels)) == {0, *values.values()}
        assert 7 <= labels.shape[2] <= 12


def test_myocardium_encloses_the_left_ventricle(phantom: Path) -> None:
    for path, values in gt_files(phantom):
        labels, _ = read(path)
        lv = labels == values["LV"]
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            beside = np.roll(labels, step, axis)[lv]
            assert set(np.unique(beside)) <= {values["LV"], values["MYO"]}


def test_right_ventricle_lies_on_the_images_left(phantom: Path) -> None:
    for path, values in gt_files(phantom):
        labels = standard_view(*read(path))
        lv, rv = (np.argwhere(labels == values[name]).mean(axis=0) for name in ("LV", "RV"))
        assert rv[0] < lv[0] - 10
        assert abs(rv[1] - lv[1]) < abs(rv[0] - lv[0])


def test_slices_go_from_above_the_base_to_the_apex(phantom: Path) -> None:
    for path, values in gt_files(phantom):
        labels, _ = read(path)
        sizes = {name: (labels == value).sum(axis=(0, 1)) for name, value in values.items()}
        assert sizes["MYO"][0] == 0
        last = {name: int(np.flatnonzero(size)[-1]) for name, size in sizes.items()}
        assert last["RV"] < last["MYO"]  # the last slices of the heart show no RV
        assert last["RV"] <= last["LV"] <= last["MYO"]
        assert sizes["LV"][last["LV"]] < sizes["LV"].max() / 2


def test_some_slices_hold_no_structure(phantom: Path) -> None:
    volumes = [read(path)[0] for path, _ in gt_files(phantom)]
    assert np.mean([not labels.any(axis=(0, 1)).all() for labels in volumes]) > 0.5


def test_the_heart_beats(phantom: Path) -> None:
    for _, gts in acdc_patients(phantom):
        (ed, affine), (es, _) = read(gts["ED"]), read(gts["ES"])
        for cavity in ("LV", "RV"):
            value = ACDC[cavity]
            assert millilitres(ed, affine, value) > 1.05 * millilitres(es, affine, value)
        # The muscle only changes its shape, as far as thick slices show it
        muscle = millilitres(ed, affine, 2), millilitres(es, affine, 2)
        assert muscle[1] == pytest.approx(muscle[0], rel=0.3)


def test_disease_moves_its_measure(tmp_path: Path) -> None:
    measures: dict[str, list[tuple[float, ...]]] = {}
    write_acdc(tmp_path, seed=1, patients=10)
    for info, gts in acdc_patients(tmp_path):
        (ed, affine), (es, _) = read(gts["ED"]), read(gts["ES"])
        rv, muscle, lv = (millilitres(ed, affine, value) for value in (1, 2, 3))
        ejected = 1 - millilitres(es, affine, 3) / lv
        measures.setdefault(info["Group"], []).append((rv, muscle, lv, ejected))
    mean = {group: np.mean(values, axis=0) for group, values in measures.items()}
    rv, muscle, lv, ejected = range(4)
    assert 100 < mean["NOR"][lv] < 160
    assert 0.5 < mean["NOR"][ejected] < 0.75
    assert mean["DCM"][lv] > 1.4 * mean["NOR"][lv]
    assert mean["DCM"][ejected] < 0.35
    assert mean["HCM"][muscle] / mean["HCM"][lv] > 1.5 * mean["NOR"][muscle] / mean["NOR"][lv]
    assert mean["MINF"][ejected] < mean["NOR"][ejected] - 0.1
    assert mean["RV"][rv] > 1.3 * mean["NOR"][rv]


def test_vendors_differ_in_look_and_grid(phantom: Path) -> None:
    contrast: dict[str, list[float]] = {}
    spacing, highest = {}, {}
    for row in mnms2_rows(phantom):
        stem = mnms2_stem(phantom, row, "ED")
        (image, affine), (labels, _) = read(Path(stem + ".nii.gz")), read(Path(stem + "_gt.nii.gz"))
        vendor = row["VENDOR"]
        contrast.setdefault(vendor, []).append(image[labels == 1].mean() / np.mean(image))
        spacing[vendor] = round(float(np.linalg.norm(affine[:3, 0])), 3)
        highest[vendor] = image.max()
        assert image.dtype == VENDORS[vendor].dtype
    levels = sorted(float(np.mean(values)) for values in contrast.values())
    assert min(np.diff(levels)) > 0.1
    assert spacing == {vendor: scanner.spacing_mm for vendor, scanner in VENDORS.items()}
    assert highest[SIEMENS] == 1200 < highest[PHILIPS] < highest[GE] <= 4600


def test_philips_and_ge_are_oblique_and_ge_is_turned(phantom: Path) -> None:
    for row in mnms2_rows(phantom):
        _, affine = read(Path(mnms2_stem(phantom, row, "ED") + ".nii.gz"))
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-5)
        right, down = RIGHT @ directions[:, :2], DOWN @ directions[:, :2]
        if row["VENDOR"] == SIEMENS:
            np.testing.assert_array_equal(directions, np.eye(3))
        elif row["VENDOR"] == PHILIPS:
            assert min(right[0], down[1]) > 0.9
        else:
            assert min(-down[0], right[1]) > 0.9
        if row["VENDOR"] != SIEMENS:  # from base to apex: left, forward, down
            assert directions[:, 2] @ [0.6, -0.6, -0.53] > 0.8


def test_without_heterogeneity_all_vendors_look_like_the_source(tmp_path: Path) -> None:
    write_mnms2(tmp_path, patients=dict.fromkeys(VENDORS, 1), heterogeneity=0)
    for row in mnms2_rows(tmp_path):
        stem = mnms2_stem(tmp_path, row, "ED")
        image, affine = read(Path(stem + ".nii.gz"))
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (1.5, 1.5, 10))
        assert image.shape[:2] == SOURCE.matrix
        assert image.max() == SOURCE.intensity_max
    looks = ("contrast", "gamma", "noise", "bias", "blur_mm", "spacing_mm", "intensity_max")
    for vendor in VENDORS.values():
        alike = blend(vendor, 0)
        assert all(getattr(alike, look) == getattr(SOURCE, look) for look in looks)
        assert blend(vendor, 1) == vendor


def test_brightness_alone_does_not_segment(phantom: Path) -> None:
    for _, gts in acdc_patients(phantom):
        labels, _ = read(gts["ED"])
        image, _ = read(gts["ED"].with_name(gts["ED"].name.replace("_gt", "")))
        for value in ACDC.values():
            structure = labels == value
            # The best window around the structure's own brightness
            low, high = np.percentile(image[structure], (5, 95))
            found = (image >= low) & (image <= high)
            dice = 2 * np.sum(found & structure) / (found.sum() + structure.sum())
            assert dice < 0.5


def test_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_phantom(tmp_path / name, seed=5, acdc_patients=1, patients={GE: 1})
    assert everything(tmp_path / "a") == everything(tmp_path / "b")
    write_phantom(tmp_path / "c", seed=6, acdc_patients=1, patients={GE: 1})
    differing = everything(tmp_path / "c")
    assert all(
        differing.get(path) != content
        for path, content in everything(tmp_path / "a").items()
        if path.endswith(".nii.gz")
    )


def test_more_patients_change_nobody_else(phantom: Path, tmp_path: Path) -> None:
    write_acdc(tmp_path, seed=3, patients=1)
    write_mnms2(tmp_path, seed=3, patients={SIEMENS: 1, GE: 1})
    more = everything(phantom)
    for path, content in everything(tmp_path).items():
        if not path.endswith(".csv"):
            assert more[path] == content


def test_a_site_can_have_one_disease_alone(tmp_path: Path) -> None:
    write_mnms2(tmp_path, patients={PHILIPS: 2, GE: 1}, diseases={PHILIPS: ["MINF"]})
    found = [(row["VENDOR"], row["DISEASE"]) for row in mnms2_rows(tmp_path)]
    assert found == [(PHILIPS, "MINF"), (PHILIPS, "MINF"), (GE, "NOR")]


def rv_ml(root: Path, row: dict[str, str]) -> float:
    return millilitres(*read(Path(mnms2_stem(root, row, "ED") + "_gt.nii.gz")), MNMS2["RV"])


def test_a_dilated_rv_can_be_at_one_site_alone(tmp_path: Path) -> None:
    vendors = {SIEMENS: 1, PHILIPS: 4, GE: 1}
    write_phantom(tmp_path, acdc_patients=5, patients=vendors, pathology_at="ge")
    rows = mnms2_rows(tmp_path)
    diseases = {(row["VENDOR"], row["DISEASE"]) for row in rows}
    assert {vendor for vendor, disease in diseases if disease == "RV"} == {GE}
    assert {disease for vendor, disease in diseases if vendor == GE} == {"RV"}
    assert "RV" not in {info["Group"] for info, _ in acdc_patients(tmp_path)}
    here = [rv_ml(tmp_path, row) for row in rows if row["VENDOR"] == GE]
    elsewhere = [rv_ml(tmp_path, row) for row in rows if row["VENDOR"] != GE]
    assert min(here) > max(elsewhere)


def test_a_pathology_elsewhere_changes_only_those_who_would_have_it(
    phantom: Path, tmp_path: Path
) -> None:
    vendors = {SIEMENS: 1, GE: 1}
    write_phantom(tmp_path, seed=3, acdc_patients=1, patients=vendors, pathology_at=GE)
    before, after = everything(phantom), everything(tmp_path)
    first_of_ge = f"mnms2/dataset/{mnms2_rows(tmp_path)[-1]['SUBJECT_CODE']}/"
    for path, content in after.items():
        if not path.endswith(".csv"):
            assert (before[path] == content) == (not path.startswith(first_of_ge)), path


@pytest.mark.parametrize(
    ("place", "message"),
    [("Canon", "pathology-at: found 'Canon', expected one of"), ("GE", "GE has no patients")],
)
def test_a_pathology_nowhere_is_refused(tmp_path: Path, place: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        write_mnms2(tmp_path, patients={PHILIPS: 1}, pathology_at=place)


def test_progress_counts_every_patient(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_phantom(
        tmp_path, acdc_patients=1, patients={GE: 1}, progress=lambda *done: seen.append(done)
    )
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"acdc_patients": 0}, "ACDC patients: found 0, expected a whole number, 1 to 999"),
        ({"acdc_patients": 1000}, "ACDC patients"),
        ({"acdc_patients": 2.5}, "ACDC patients"),
        ({"seed": -1}, "seed: found -1, expected a whole number, 0 or more"),
        ({"heterogeneity": -0.1}, "heterogeneity"),
        ({"heterogeneity": 2.1}, "heterogeneity"),
        ({"heterogeneity": float("nan")}, "heterogeneity"),
        ({"patients": {"Canon": 1}}, "'Canon'"),
        ({"patients": {GE: -1}}, GE),
        ({"patients": {GE: 301}}, GE),
        ({"patients": {}}, "patients"),
    ],
)
def test_nonsense_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(UserError, match=named):
        write_phantom(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("diseases", [["FLU"], []])
def test_unknown_or_no_disease_is_refused(tmp_path: Path, diseases: list[str]) -> None:
    with pytest.raises(UserError, match="diseases"):
        write_acdc(tmp_path, patients=1, diseases=diseases)
    with pytest.raises(UserError, match="diseases"):
        write_mnms2(tmp_path, patients={GE: 1}, diseases={GE: diseases})


@pytest.mark.parametrize("layout", ["acdc", "mnms2"])
def test_a_folder_in_use_is_left_alone(tmp_path: Path, layout: str) -> None:
    (tmp_path / layout).mkdir()
    (tmp_path / layout / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=layout):
        write_phantom(tmp_path, acdc_patients=1, patients={GE: 1})
    assert everything(tmp_path) == {f"{layout}/mine.txt": b"keep"}


def test_a_file_in_the_folders_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("keep")
    with pytest.raises(UserError, match="is a file"):
        write_acdc(tmp_path / "out", patients=1)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "acdc").mkdir()
    write_acdc(tmp_path, patients=1)
    assert len(acdc_patients(tmp_path)) == 1


@pytest.mark.parametrize("folder", [".", "new"])
def test_an_interrupted_phantom_leaves_nothing(tmp_path: Path, folder: str) -> None:
    def interrupt(done: int, total: int) -> None:
        assert list(tmp_path.rglob("dataset_information.csv")) == []
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / folder, acdc_patients=1, patients={GE: 1}, progress=interrupt)
    assert list(tmp_path.iterdir()) == []
