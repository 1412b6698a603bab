"""Data folders are read or refused, and their labels mapped onto the canonical ones."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, center_of_mass

from cardiac.datasets import Case, group_by_site, read_cases
from cardiac.preprocessing import load_frame
from common.errors import UserError
from common.labels import BACKGROUND, LV, MYO, RV
from tests.cardiac.samples import write_table

Rows = list[dict[str, str]]


def row(code: str, vendor: str = "SIEMENS", **more: str) -> dict[str, str]:
    return {"SUBJECT_CODE": code, "VENDOR": vendor, **more}


def mnms2(folder: Path, rows: Rows) -> Path:
    """Make the layout of M&Ms-2, its images empty."""
    write_table(folder, rows)
    for code in (f"{int(r['SUBJECT_CODE']):03d}" for r in rows if r["SUBJECT_CODE"]):
        for end in ("ED", "ED_gt", "ES", "ES_gt"):
            touch(folder / "dataset" / code / f"{code}_SA_{end}.nii.gz")
    return folder


def acdc(folder: Path, frames: Mapping[str, tuple[int, int]]) -> Path:
    """Make the layout of ACDC, its images empty, with the ED and ES frame of each patient."""
    for patient, (ed, es) in frames.items():
        for frame in (ed, es):
            for end in ("", "_gt"):
                touch(folder / patient / f"{patient}_frame{frame:02d}{end}.nii.gz")
        (folder / patient / "Info.cfg").write_text(f"ED: {ed}\nES: {es}\nGroup: DCM\n")
    return folder


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def names(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def sites(folder: Path, column: str) -> dict[str, list[str]]:
    groups = group_by_site(read_cases(folder), column, folder)
    return {name: sorted({case.patient for case in cases}) for name, cases in groups.items()}


def test_acdc_is_read_sorted_with_ed_and_es_of_everyone(tmp_path: Path) -> None:
    acdc(tmp_path / "training", {"patient003": (1, 9), "patient001": (1, 12)})
    assert names(read_cases(tmp_path)) == [
        "patient001 ED",
        "patient001 ES",
        "patient003 ED",
        "patient003 ES",
    ]


def test_acdc_is_read_from_its_training_folder_too(tmp_path: Path) -> None:
    acdc(tmp_path / "training", {"patient001": (1, 12)})
    assert read_cases(tmp_path / "training") == read_cases(tmp_path)


def test_acdc_frames_are_those_that_the_info_file_names(tmp_path: Path) -> None:
    acdc(tmp_path, {"patient090": (4, 11)})
    ed, es = read_cases(tmp_path)
    assert (ed.frame, ed.image.name) == ("ED", "patient090_frame04.nii.gz")
    assert (es.frame, es.label.name) == ("ES", "patient090_frame11_gt.nii.gz")


def test_mnms2_is_read_sorted_whatever_the_order_of_rows(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("12"), row("2"), row("101")])
    assert names(read_cases(tmp_path)) == [
        "002 ED",
        "002 ES",
        "012 ED",
        "012 ES",
        "101 ED",
        "101 ES",
    ]


def test_padding_rows_are_no_patients(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1"), row("", ""), row("2"), row("", "")])
    assert sites(tmp_path, "VENDOR") == {"Siemens": ["001", "002"]}


def test_a_vendor_in_any_spelling_is_one_site(tmp_path: Path) -> None:
    spellings = {
        "GE": ["GE MEDICAL SYSTEMS", "GE", "ge"],
        "Philips": ["Philips Medical Systems", "PHILIPS", "Philips "],
        "Siemens": ["SIEMENS", "Siemens", " siemens"],
    }
    every = [spelling for group in spellings.values() for spelling in group]
    mnms2(tmp_path, [row(str(code), vendor) for code, vendor in enumerate(every, start=1)])
    assert sites(tmp_path, "VENDOR") == {
        "GE": ["001", "002", "003"],
        "Philips": ["004", "005", "006"],
        "Siemens": ["007", "008", "009"],
    }


def test_bare_numbers_get_the_name_of_their_column(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1", CENTRE="2"), row("2", CENTRE="1"), row("3", CENTRE="Dijon")])
    found = sites(tmp_path, "CENTRE")
    assert found == {"Dijon": ["003"], "centre-1": ["002"], "centre-2": ["001"]}
    assert list(found) == sorted(found)


def test_a_patient_without_a_value_belongs_to_a_site_that_says_so(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1", ""), row("2")])
    assert sites(tmp_path, "VENDOR") == {"Siemens": ["002"], "vendor-unknown": ["001"]}


def test_bytes_that_are_not_utf8_do_not_stop_the_reader(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1", HOSPITAL="Nimes")])
    table = tmp_path / "dataset_information.csv"
    table.write_bytes(table.read_bytes().replace(b"Nimes", "Nîmes".encode("cp1252")))
    assert sites(tmp_path, "VENDOR") == {"Siemens": ["001"]}


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1")])
    table = tmp_path / "dataset_information.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())  # a byte order mark
    assert sites(tmp_path, "VENDOR") == {"Siemens": ["001"]}


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        read_cases(folder)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", str(tmp_path / "nowhere"), "no such data folder")


def test_a_folder_of_neither_layout_is_named_with_what_was_looked_for(tmp_path: Path) -> None:
    touch(tmp_path / "scan.dcm")
    refused(tmp_path, str(tmp_path), "dataset_information.csv", "patientNNN")


def test_a_table_without_patients_is_refused(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("", "")])
    refused(tmp_path, str(tmp_path), "no patient")


def test_a_table_without_subject_codes_is_named_with_its_columns(tmp_path: Path) -> None:
    table = write_table(tmp_path, [{"PATIENT": "1", "VENDOR": "GE"}])
    refused(tmp_path, str(table), "SUBJECT_CODE", "found PATIENT, VENDOR")


def test_a_site_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1", HOSPITAL="Nimes")])
    table = tmp_path / "dataset_information.csv"
    table.write_bytes(table.read_bytes().replace(b"Nimes", "Nîmes".encode("cp1252")))
    with pytest.raises(UserError, match=r"HOSPITAL of 1 patient\(s\) is 'N\\ufffdmes'"):
        sites(tmp_path, "HOSPITAL")


def test_a_folder_of_two_layouts_is_refused(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1")])
    acdc(tmp_path, {"patient001": (1, 9)})
    refused(tmp_path, "M&Ms-2 and ACDC", "expected one layout")


def test_a_patients_folder_whose_name_is_not_utf8_is_refused(tmp_path: Path) -> None:
    acdc(tmp_path, {os.fsdecode(b"patient\xff"): (1, 9)})
    refused(tmp_path, r"'patient\udcff ED', expected text in UTF-8")


@pytest.mark.parametrize("again", ["1", "001"])
def test_a_subject_listed_twice_is_refused(tmp_path: Path, again: str) -> None:
    mnms2(tmp_path, [row("1"), row(again, "Philips")])
    refused(tmp_path, str(tmp_path / "dataset_information.csv"), f"subject {again}", "twice")


@pytest.mark.parametrize("missing", ["001_SA_ES.nii.gz", "001_SA_ES_gt.nii.gz"])
def test_a_missing_image_or_label_is_named(tmp_path: Path, missing: str) -> None:
    mnms2(tmp_path, [row("1")])
    (tmp_path / "dataset" / "001" / missing).unlink()
    refused(tmp_path, f"{missing}: missing", "001", "ES")


def test_a_missing_label_of_acdc_is_named(tmp_path: Path) -> None:
    acdc(tmp_path, {"patient001": (1, 12)})
    missing = tmp_path / "patient001" / "patient001_frame12_gt.nii.gz"
    missing.unlink()
    refused(tmp_path, f"{missing}: missing", "patient001", "ES")


def test_a_missing_info_file_is_named(tmp_path: Path) -> None:
    acdc(tmp_path, {"patient001": (1, 12)})
    path = tmp_path / "patient001" / "Info.cfg"
    path.unlink()
    refused(tmp_path, f"{path}: missing", "ED and ES")


@pytest.mark.parametrize(
    ("content", "found"),
    [("ED: 1\n", "None"), ("ED: 1\nES: last\n", "'last'"), ("ED: 1\nES: ²\n", "'²'"),
     (f"ED: 1\nES: {'9' * 5000}\n", "'999")],
)  # fmt: skip
def test_an_info_file_without_a_frame_number_is_named(
    tmp_path: Path, content: str, found: str
) -> None:
    acdc(tmp_path, {"patient001": (1, 12)})
    path = tmp_path / "patient001" / "Info.cfg"
    path.write_text(content)
    refused(tmp_path, str(path), f"ES is {found}", "expected a frame number")


def test_splitting_by_an_unknown_column_names_those_that_there_are(tmp_path: Path) -> None:
    mnms2(tmp_path, [row("1", CENTRE="1")])
    with pytest.raises(
        UserError, match=r"no column 'HOSPITAL'.*found CENTRE, SUBJECT_CODE, V"
    ) as e:
        group_by_site(read_cases(tmp_path), "HOSPITAL", tmp_path)
    assert str(tmp_path) in str(e.value)


def rim(labels: np.ndarray, structure: int) -> np.ndarray:
    """Return the labels right outside a structure in each of the slices."""
    inside = labels == structure
    outside: np.ndarray = binary_dilation(inside, np.ones((1, 3, 3))) & ~inside
    found: np.ndarray = labels[outside]
    return found


@pytest.mark.parametrize("layout", ["acdc", "mnms2"])
def test_labels_of_both_data_sets_come_to_mean_the_same(phantom_dir: Path, layout: str) -> None:
    cases = read_cases(phantom_dir / layout)
    for case in (cases[0], cases[len(cases) // 2], cases[-1]):
        labels = load_frame(case)[1]
        whole = [z for z in labels if set(np.unique(z)) == {BACKGROUND, LV, MYO, RV}]
        middle = np.stack(whole)
        assert np.mean(rim(middle, LV) == MYO) > 0.95, case.name
        assert np.mean(rim(middle, RV) == MYO) < 0.6, case.name
        right, left = (center_of_mass(middle == structure)[2] for structure in (RV, LV))
        assert right < left, case.name


def test_the_two_data_sets_number_their_labels_differently(phantom_dir: Path) -> None:
    (one, *_), (other, *_) = (read_cases(phantom_dir / layout) for layout in ("acdc", "mnms2"))
    swapped = Case(one.patient, one.frame, one.image, one.label, other.label_map, one.info)
    right, wrong = load_frame(one)[1], load_frame(swapped)[1]
    np.testing.assert_array_equal(right == LV, wrong == RV)
    np.testing.assert_array_equal(right == MYO, wrong == MYO)
    assert (right == LV).any()
