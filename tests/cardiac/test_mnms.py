"""M&Ms as published: 4-D files whose ED and ES the index names."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cardiac.datasets import FRAMES, Case, group_by_site, read_cases
from cardiac.inspection.inspect import inspect_folder
from cardiac.preprocessing import Volume, load_frame, load_volume, volumes
from cardiac.scoring import site_groups
from cardiac.splits import SPLITS, split_cases
from cardiac.studies import find_studies
from common.errors import UserError
from tests.cardiac.samples import heart_image, heart_labels, write_nifti, write_table

INDEX = "211230_M&Ms_Dataset_information_diagnosis_opendataset.csv"
COLUMNS = (
    *("", "External code", "VendorName", "Vendor", "Centre", "ED", "ES"),
    *("Age", "Pathology", "Sex", "Height", "Weight"),
)
TIMES = 5


class Patient(NamedTuple):
    code: str
    vendor_name: str
    vendor: str
    centre: str
    ed: str
    es: str
    folder: str


PATIENTS = (
    Patient("A0S9V9", "Siemens", "A", "1", "0", "3", "Training/Labeled"),
    Patient("A1D9Z7", "Siemens", "A", "1", "4", "2", "Training/Labeled"),
    Patient("B2F4K5", "Philips", "B", "2", "0", "1", "Validation"),
    Patient("B3G6L2", "Philips", "B", "3", "1", "4", "Testing"),
    Patient("C4H8M1", "GE", "C", "4", "", "", "Training/Unlabeled"),
    Patient("D5J0N3", "Canon", "D", "5", "2", "0", "Testing"),
)
LABELLED = [patient for patient in PATIENTS if "Unlabeled" not in patient.folder]


def moments(patient: Patient) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return image and label (i, j, k) of ED and ES, and a smaller heart in ES."""
    seed = int(patient.code[1])
    frames = {}
    for number, frame in enumerate(FRAMES):
        labels = heart_labels(40, slices=3)
        labels[2] = labels[2] * (number == 0)
        image = heart_image(labels, seed=10 * seed + number).astype(np.float32)
        frames[frame] = image.transpose(2, 1, 0), labels.transpose(2, 1, 0)
    return frames


def write_index(folder: Path, rows: Sequence[Sequence[str]], name: str = INDEX) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    return folder / name


def row(number: int, patient: Patient) -> list[str]:
    known = [patient.code, *patient[1:6]]
    return [str(number), *known, "50.0", "NOR", "F", "170", "70"]


def write_cine(folder: Path, patient: Patient) -> None:
    """Write the files of a patient, with noise in all frames but ED and ES."""
    rng = np.random.default_rng(0)
    image = rng.normal(90, 30, (40, 40, 3, TIMES)).astype(np.float32)
    label = np.zeros((40, 40, 3, TIMES), np.uint8)
    if patient.ed:
        for frame, number in zip(FRAMES, (patient.ed, patient.es), strict=True):
            at = image[..., int(number)], label[..., int(number)]
            at[0][:], at[1][:] = moments(patient)[frame]
    stem = folder / patient.folder / patient.code / patient.code
    write_nifti(Path(f"{stem}_sa.nii.gz"), image, np.diag([1.5, 1.5, 8.0, 1.0]))
    write_nifti(Path(f"{stem}_sa_gt.nii.gz"), label, np.diag([1.5, 1.5, 8.0, 1.0]))


def write_mnms(folder: Path, patients: Sequence[Patient] = PATIENTS) -> Path:
    write_index(folder, [row(number, patient) for number, patient in enumerate(patients)])
    for patient in patients:
        write_cine(folder, patient)
    return folder


def write_as_mnms2(folder: Path) -> Path:
    """Write the same study as 3-D files in the layout of M&Ms-2."""
    write_table(
        folder, [{"SUBJECT_CODE": p.code, "VENDOR": p.vendor, "CENTRE": p.centre} for p in LABELLED]
    )
    for patient in LABELLED:
        for frame, (image, label) in moments(patient).items():
            stem = folder / "dataset" / patient.code / f"{patient.code}_SA_{frame}"
            write_nifti(Path(f"{stem}.nii.gz"), image)
            write_nifti(Path(f"{stem}_gt.nii.gz"), label)
    return folder


@pytest.fixture(scope="module")
def mnms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small M&Ms folder, which tests must not change."""
    return write_mnms(tmp_path_factory.mktemp("mnms"))


@pytest.fixture(scope="module")
def mnms2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same patients as M&Ms-2."""
    return write_as_mnms2(tmp_path_factory.mktemp("mnms2"))


def sites(folder: Path, column: str) -> dict[str, list[str]]:
    groups = group_by_site(read_cases(folder), column, folder)
    return {name: sorted({case.patient for case in cases}) for name, cases in groups.items()}


def test_every_labelled_patient_is_read_at_the_frames_of_the_index(mnms: Path) -> None:
    found = [(case.patient, case.frame, str(case.frame_index)) for case in read_cases(mnms)]
    assert found == [
        (p.code, frame, number)
        for p in LABELLED
        for frame, number in zip(FRAMES, (p.ed, p.es), strict=True)
    ]


def test_image_and_label_are_those_of_the_frame(mnms: Path, mnms2: Path) -> None:
    pairs = list(zip(read_cases(mnms), read_cases(mnms2), strict=True))
    assert len({load_frame(case)[0].tobytes() for case, _ in pairs}) == 2 * len(LABELLED)
    for cine, plain in pairs:
        assert cine.name == plain.name
        for one, other in zip(load_frame(cine), load_frame(plain), strict=True):
            np.testing.assert_array_equal(one, other)


def prepared(cases: Sequence[Case], cache: Path) -> list[Volume]:
    dataset = volumes(cases, 2.0, cache)
    return [load_volume(dataset, index) for index in range(len(cases))]


def test_splits_and_prepared_volumes_are_those_of_the_same_study_in_3d(
    mnms: Path, mnms2: Path, tmp_path: Path
) -> None:
    cine, plain = (split_cases(read_cases(folder), seed=1) for folder in (mnms, mnms2))
    for split in SPLITS:
        assert [case.name for case in cine[split]] == [case.name for case in plain[split]]
        for _ in ("computed", "from the cache"):
            ours, theirs = (prepared(s[split], tmp_path) for s in (cine, plain))
            for one, other in zip(ours, theirs, strict=True):
                assert one.keys() == other.keys()
                assert all(torch.equal(one[key], other[key]) for key in one)


def test_frames_of_one_file_do_not_share_a_place_in_the_cache(mnms: Path, tmp_path: Path) -> None:
    """The frame's number must be part of the cache key, as a corrected index may change it."""
    case = read_cases(mnms)[0]
    other = Case(
        case.patient, case.frame, case.image, case.label, case.label_map, {}, frame_index=3
    )
    one, two = (prepared([c], tmp_path)[0]["image"] for c in (case, other))
    assert not torch.equal(one, two)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("Vendor", ["A", "B", "D"]),
        ("VENDOR", ["A", "B", "D"]),
        ("VendorName", ["Canon", "Philips", "Siemens"]),
        ("Centre", ["centre-1", "centre-2", "centre-3", "centre-5"]),
        ("CENTRE", ["centre-1", "centre-2", "centre-3", "centre-5"]),
        ("pathology", ["NOR"]),
    ],
)
def test_sites_come_by_any_column_in_any_case(mnms: Path, column: str, expected: list[str]) -> None:
    assert list(sites(mnms, column)) == expected
    assert list(site_groups(mnms, column)) == expected
    assert list(inspect_folder(mnms, split_by=column).sites) == expected


def test_a_site_has_its_own_patients(mnms: Path) -> None:
    assert sites(mnms, "vendorname")["Siemens"] == ["A0S9V9", "A1D9Z7"]
    assert sites(mnms, "centre")["centre-3"] == ["B3G6L2"]


def test_a_column_that_is_not_there_is_named_with_the_published_ones(mnms: Path) -> None:
    with pytest.raises(UserError, match=r"'HOSPITAL'.*Age, Centre, ED, ES, External code"):
        sites(mnms, "HOSPITAL")


def test_the_index_is_found_under_the_names_of_other_releases(tmp_path: Path) -> None:
    write_mnms(tmp_path)
    (tmp_path / INDEX).rename(tmp_path / "201014_M&Ms_Dataset_Information_-_opendataset.csv")
    (tmp_path / f"._{INDEX}").touch()  # as an archive from a Mac holds it
    assert len(read_cases(tmp_path)) == 2 * len(LABELLED)


def test_folders_may_lie_elsewhere_below(tmp_path: Path) -> None:
    moved = [patient._replace(folder="all/of/them") for patient in LABELLED]
    assert len(read_cases(write_mnms(tmp_path, moved))) == 2 * len(LABELLED)


def changed(folder: Path, **changes: Any) -> Path:
    """Write a data set of one patient whose index differs from its files."""
    patient = PATIENTS[0]
    write_cine(folder, patient)
    write_index(folder, [row(0, patient._replace(**changes))])
    return folder


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        read_cases(folder)
    assert [word for word in words if word not in str(error.value)] == []
    assert "error" in {fault.severity for fault in inspect_folder(folder).findings}


@pytest.mark.parametrize("value", ["", "first", "-1", "3.5", "nan"])
@pytest.mark.parametrize("column", FRAMES)
def test_a_frame_that_is_no_number_is_named(tmp_path: Path, column: str, value: str) -> None:
    folder = changed(tmp_path, **{column.lower(): value})
    refused(folder, str(tmp_path / INDEX), "A0S9V9", f"{column} is {value!r}", "a frame number")


def test_a_frame_written_with_a_point_is_a_frame(tmp_path: Path) -> None:
    assert [case.frame_index for case in read_cases(changed(tmp_path, ed="0.0", es="3.0"))] == [
        0,
        3,
    ]


def test_a_frame_beyond_the_files_is_named_with_how_many_there_are(tmp_path: Path) -> None:
    folder = changed(tmp_path, es="5")
    refused(folder, str(tmp_path / INDEX), "A0S9V9", "ES is 5", "0 to 4", "A0S9V9_sa.nii.gz")
    findings = {(f.code, f.case) for f in inspect_folder(folder).findings}
    assert ("frame-missing", "A0S9V9 ES") in findings
    assert ("frame-missing", "A0S9V9 ED") not in findings


@pytest.mark.parametrize("end", ["sa", "sa_gt"])
def test_a_file_without_time_is_named(tmp_path: Path, end: str) -> None:
    path = tmp_path / "Training/Labeled/A0S9V9" / f"A0S9V9_{end}.nii.gz"
    folder = changed(tmp_path)
    write_nifti(path, np.zeros((40, 40, 3), np.float32))
    refused(folder, str(path), "(40, 40, 3)", "four dimensions", "frame 0")
    assert "frame-missing" in {f.code for f in inspect_folder(folder).findings}


def test_an_index_beside_the_labels_is_refused_where_the_case_is_read(tmp_path: Path) -> None:
    _, es = read_cases(changed(tmp_path, es="2"))
    with pytest.raises(UserError, match=r"A0S9V9_sa_gt.*frame 2 \(ES\) holds no structure"):
        load_frame(es)


def test_a_patient_without_files_is_named(tmp_path: Path) -> None:
    folder = changed(tmp_path, code="Z9Z9Z9")
    refused(folder, str(tmp_path / INDEX), "row of Z9Z9Z9", "External code", "Z9Z9Z9_sa.nii.gz")


def test_a_missing_label_is_named_and_found(tmp_path: Path) -> None:
    folder = changed(tmp_path)
    label = tmp_path / "Training/Labeled/A0S9V9/A0S9V9_sa_gt.nii.gz"
    label.unlink()
    refused(folder, f"{label}: missing", "A0S9V9", "ED")
    assert "file-missing" in {f.code for f in inspect_folder(folder).findings}


def test_a_patient_with_two_folders_is_named_with_both(tmp_path: Path) -> None:
    write_cine(tmp_path, PATIENTS[0]._replace(folder="Testing"))
    refused(changed(tmp_path), "row of A0S9V9", "Testing/A0S9V9", "Training/Labeled/A0S9V9")


def test_a_patient_in_two_rows_is_named(tmp_path: Path) -> None:
    write_cine(tmp_path, PATIENTS[0])
    write_index(tmp_path, [row(0, PATIENTS[0]), row(1, PATIENTS[0])])
    refused(tmp_path, str(tmp_path / INDEX), "A0S9V9", "twice")


def test_two_indices_are_named(tmp_path: Path) -> None:
    write_index(changed(tmp_path), [], name="201014_M&Ms_Dataset_Information.csv")
    refused(tmp_path, INDEX, "201014_M&Ms_Dataset_Information.csv", "expected one")


@pytest.mark.parametrize("missing", ["External code", "ED", "ES"])
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path, missing: str) -> None:
    table = write_index(tmp_path, [])
    table.write_text(table.read_text().replace(missing, "Other"))
    refused(tmp_path, str(table), f"no column {missing}", "VendorName, Vendor, Centre")


def test_check_looks_at_the_frames_and_not_at_the_rest_of_the_cine(mnms: Path, mnms2: Path) -> None:
    cine, plain = inspect_folder(mnms, pictures=True), inspect_folder(mnms2)
    assert cine.layout == "M&Ms"
    assert [r.case.name for r in cine.reports] == [r.case.name for r in plain.reports]
    for ours, theirs in zip(cine.reports, plain.reports, strict=True):
        assert (ours.image_hashes, ours.label_hash) == (theirs.image_hashes, theirs.label_hash)
        assert (ours.shape, ours.volumes_ml) == (theirs.shape, theirs.volumes_ml)
        assert ours.thumbnails is not None
    codes = [{f.code for f in inspection.findings} for inspection in (cine, plain)]
    assert codes[0] == codes[1]


def test_predict_finds_every_cine_once(mnms: Path) -> None:
    names = [study.name for study in find_studies([mnms])]
    assert sorted(names) == sorted(f"{patient.code}_sa" for patient in PATIENTS)
    assert not any(re.search("_gt", name) for name in names)
