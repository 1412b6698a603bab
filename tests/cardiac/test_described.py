"""Folders that ``dataset.toml`` describes: a csv of any columns, and nnU-Net's raw layout."""

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cardiac.datasets import described, group_by_site, read_cases
from cardiac.datasets.label_names import map_labels
from cardiac.inspection.inspect import Inspection, inspect_folder
from cardiac.preprocessing import load_frame
from cardiac.scoring import site_groups
from cardiac.splits import split_cases
from common.errors import UserError
from common.labels import LV, MYO, RV
from tests.cardiac.samples import check_agrees, write_case, write_nnunet

HEADER = ["Subject", "frame", "image", "label", "site"]
TOML = """affine-axes = "RAS"
labels = {"LV cavity" = 1, Myocardium = 2, rv = 3}
columns = {patient = "subject"}
"""
PATTERN = r"(?P<site>[a-z]+)-(?P<patient>\d+)_(?P<frame>\w+)"
RAW_TOML = f"affine-axes = 'LPS'\ncase-pattern = '{PATTERN}'\n"
SITES = ("dijon", "lyon")
NESTED = "[" * 10_000
Plant = Callable[[Path], object]


def write_listed(folder: Path) -> Path:
    """Write three patients of two sites each, with a csv and a description."""
    rows = [HEADER]
    for number in range(1, 7):
        for frame in ("ED", "ES"):
            case = write_case(folder, size=24, slices=2, patient=f"{number:03d}", frame=frame)
            files = [str(path.relative_to(folder)) for path in (case.image, case.label)]
            rows.append([f"p{number}", frame, *files, SITES[number % 2]])
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "dataset.toml").write_text(TOML)
    shutil.move(folder / "dataset", folder / "hearts")
    table(folder, "dataset/", "hearts/")
    return folder


def write_raw(folder: Path, description: str = RAW_TOML) -> Path:
    """Write the same hearts in nnU-Net's layout."""
    cases = [
        write_case(folder / "made", size=24, slices=2, patient=f"{number:03d}", frame=frame)
        for number in range(1, 7)
        for frame in ("ED", "ES")
    ]
    return write_nnunet(
        cases,
        folder / "raw",
        lambda case: f"{SITES[int(case.patient) % 2]}-{case.patient}_{case.frame}",
        description,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return folders in both layouts, which tests must not change."""
    folder = tmp_path_factory.mktemp("described")
    write_listed(folder / "csv")
    write_raw(folder)
    return folder


@pytest.fixture
def listed(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "csv", tmp_path / "csv"))


@pytest.fixture
def raw(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "raw", tmp_path / "raw"))


def table(folder: Path, old: str, new: str, name: str = "cases.csv") -> None:
    """Replace text of a file."""
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def toml(folder: Path, old: str, new: str) -> None:
    table(folder, old, new, "dataset.toml")


def said(folder: Path, **changes: object) -> None:
    """Change keys of ``dataset.json``; None removes a key."""
    path = folder / "dataset.json"
    now = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in now.items() if value is not None}))


def labelled(**labels: object) -> Plant:
    return lambda folder: said(folder, labels={"background": 0, **labels})


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as error:
        read_cases(folder)
    assert [word for word in words if word not in str(error.value)] == []


# --- what is read


def sites(folder: Path) -> dict[str, list[str]]:
    groups = group_by_site(read_cases(folder), "VENDOR", folder)
    return {name: [case.name for case in cases] for name, cases in groups.items()}


def test_a_csv_of_any_columns_is_read_by_the_description(listed: Path) -> None:
    cases = read_cases(listed)
    assert [case.name for case in cases[:3]] == ["p1 ED", "p1 ES", "p2 ED"]
    assert {case.axes for case in cases} == {"RAS"}
    assert cases[0].label_map == {0: 0, 1: LV, 2: MYO, 3: RV}
    assert list(sites(listed)) == ["dijon", "lyon"]
    assert sites(listed)["lyon"] == [f"p{n} {frame}" for n in (1, 3, 5) for frame in ("ED", "ES")]
    assert {tuple(np.unique(load_frame(case)[1])) for case in cases} == {(0, LV, MYO, RV)}


def test_nnunets_layout_is_the_same_hearts(listed: Path, raw: Path) -> None:
    toml(listed, "RAS", "LPS")
    for one, other in zip(read_cases(listed), read_cases(raw), strict=True):
        assert one.frame == other.frame
        assert (one.info["site"], one.label_map) == (other.info["site"], other.label_map)
        for ours, theirs in zip(load_frame(one), load_frame(other), strict=True):
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layout", ["csv", "raw"])
def test_check_reads_what_training_reads(made: Path, layout: str) -> None:
    inspection = inspect_folder(made / layout)
    assert [r.case for site in inspection.sites.values() for r in site] == [
        case for group in site_groups(made / layout, None).values() for case in group
    ]
    assert list(inspection.sites) == list(SITES)
    errors = {fault.code for fault in inspection.findings if fault.severity == "error"}
    assert errors == {"frames-same"}  # which these small hearts are
    check_agrees(inspection)


def test_frames_of_a_patient_are_in_one_split_whatever_they_are_called(raw: Path) -> None:
    for path in [*raw.rglob("*_ES_0000.nii.gz"), *raw.rglob("*_ES.nii.gz")]:
        path.rename(path.with_name(path.name.replace("_ES", "_frame12")))
    for cases in group_by_site(read_cases(raw), "site", raw).values():
        splits = [{c.patient for c in part} for part in split_cases(cases, seed=0).values()]
        assert sum(map(len, splits)) == len(set.union(*splits)) == 3
        assert {case.frame for case in cases} == {"ED", "frame12"}
    assert "check-failed" not in {fault.code for fault in inspect_folder(raw).findings}


def test_what_the_run_says_of_axes_does_not_go_before_the_description(listed: Path) -> None:
    assert {case.axes for case in read_cases(listed, "LPS")} == {"RAS"}


def test_a_table_may_say_whose_nnunets_cases_are(raw: Path) -> None:
    (raw / "dataset.toml").write_text('affine-axes = "LPS"\ntable = "sites.csv"\n')
    names = sorted(p.name.removesuffix("_0000.nii.gz") for p in (raw / "imagesTr").iterdir())
    rows = [f"{name},{name[:-3]},{name.split('-')[0]}" for name in names]
    (raw / "sites.csv").write_text("\n".join(["case,patient,site", *rows]))
    cases = read_cases(raw)
    assert [case.frame for case in cases] == names  # a case without a frame has its own name
    assert len({case.patient for case in cases}) == 6
    assert list(sites(raw)) == list(SITES)


def test_every_case_may_be_a_patient_of_one_site(raw: Path) -> None:
    toml(raw, PATTERN, "(?P<patient>.+)")
    with (raw / "dataset.toml").open("a") as file:
        file.write("site = 'Dijon'\n")
    found = sites(raw)
    assert found.keys() == {"Dijon"}
    assert found["Dijon"][0] == "dijon-002_ED"


def test_images_may_lie_elsewhere_when_their_path_is_absolute(listed: Path, tmp_path: Path) -> None:
    shutil.move(listed / "hearts", tmp_path / "elsewhere")
    table(listed, "hearts/", f"{tmp_path / 'elsewhere'}/")
    assert len(read_cases(listed)) == 12


def test_labels_of_nnunets_first_version_are_numbers_by_name(raw: Path) -> None:
    said(raw, labels={"0": "background", "3": "LV", "2": "MYO", "1": "RV"})
    said(raw, channel_names=None, modality={"0": "MRI"}, file_ending=None)
    assert read_cases(raw)[0].label_map == {0: 0, 3: LV, 2: MYO, 1: RV}


@pytest.mark.parametrize(
    "named",
    [
        {"background": 0, "RV": 1, "MLV": 2, "LVC": 3},
        {"background": 0, "LVBP": 3, "LVM": 2, "RV": 1},
        {"left ventricle": 3, "MYOCARDIUM": 2, "Right_Ventricle": 1},
    ],
)
def test_labels_have_their_usual_names(named: dict[str, object]) -> None:
    assert map_labels(named, Path()) == {0: 0, 3: LV, 2: MYO, 1: RV}


# --- what is not: what plants it, and the code


FAULTS: list[tuple[Plant, str]] = [
    (lambda f: (f / "cases.csv").unlink(), "csv-missing"),
    (lambda f: table(f, "Subject", "Person"), "csv-column"),
    (lambda f: table(f, "p1,ES", "p1,ED"), "subject-twice"),
    (lambda f: table(f, "hearts/001/001_SA_ES.", "hearts/001/001_SA_ED."), "subject-twice"),
    (lambda f: table(f, "p1,ES", "p1,"), "row-cell"),
    (lambda f: table(f, "p1,ES", ",ES"), "row-cell"),
    (lambda f: table(f, "hearts/001/001_SA_ES_gt.nii.gz", ""), "row-cell"),
    (lambda f: table(f, "hearts/001/001_SA_ES.", "../001_SA_ES."), "path-outside"),
    (lambda f: toml(f, "RAS", 'LPS"\ntable = "../cases.csv'), "path-outside"),
    (lambda f: (f / "hearts/001/001_SA_ES_gt.nii.gz").unlink(), "file-missing"),
    (lambda f: table(f, "SA_ES_gt.nii.gz,lyon", "SA_ES_gt.nii.gz,dijon"), "patient-sites"),
    (lambda f: table(f, ",site", ",place"), "column-missing"),
    (lambda f: table(f, ",lyon", ","), "column-empty"),
    (lambda f: toml(f, 'affine-axes = "RAS"', ""), "description-key"),
    (lambda f: toml(f, "RAS", "RSA"), "description-key"),
    (lambda f: toml(f, "columns", "column"), "description-key"),
    (lambda f: toml(f, "patient =", "who ="), "description-key"),
    (lambda f: toml(f, "labels =", "# "), "description-key"),
    (lambda f: toml(f, "RAS", 'RAS" = '), "description-key"),
    (lambda f: toml(f, "Myocardium = 2", "scar = 2"), "label-names"),
    (lambda f: toml(f, "Myocardium = 2", "Myocardium = 1"), "label-names"),
    (lambda f: toml(f, "Myocardium = 2", "Myocardium = '2'"), "label-names"),
    (lambda f: toml(f, "RAS", 'RAS"\nsite = "Lyon'), "row-cell"),
    (lambda f: table(f, "p1,ES,", 'p1,ES,"'), "csv-missing"),
    (lambda f: table(f, ",frame", ",Subject"), "csv-column"),
    (lambda f: table(f, ",frame", ", SITE "), "csv-column"),
    (lambda f: toml(f, "subject", 'subject", frame = "phase'), "csv-column"),
    (lambda f: toml(f, "subject", 'subject", site = "hospital'), "csv-column"),
    (lambda f: toml(f, "subject", ""), "description-key"),
    (lambda f: toml(f, "patient =", "case ="), "description-key"),
    (lambda f: toml(f, "RAS", 'RAS"\ntable = "a\\u0000'), "csv-missing"),
    (lambda f: toml(f, "Myocardium = 2", "Myocardium = 70000"), "label-names"),
    (lambda f: toml(f, "Myocardium = 2", f"Myocardium = {NESTED}"), "description-key"),
    (lambda f: (f / "cases.csv").write_text(",".join(HEADER)), "csv-missing"),
    (lambda f: table(f, "hearts/001/001_SA_ES.nii.gz", ""), "row-cell"),
    (lambda f: table(f, "p1,ES", "p1,ES,x"), "row-cell"),
    (lambda f: table(f, "p1,ES", "p\0 1,ES"), "row-cell"),
    (lambda f: table(f, "001_SA_ES.", "\0001_SA_ES."), "row-cell"),
    (lambda f: latin(f, "p1,"), "row-cell"),
    (lambda f: latin(f, "lyon"), "row-cell"),
    (lambda f: table(f, "hearts/001/001_SA_ES.", "./hearts/001/001_SA_ED."), "subject-twice"),
    (lambda f: table(f, "hearts/001/001_SA_ES_", "hearts/001/001_SA_ED_"), "subject-twice"),
    (lambda f: table(f, "001_SA_ES.", f"{'x' * 300}."), "file-missing"),
    (lambda f: table(f, "001_SA_ES.", "001**SA."), "file-missing"),
    (lambda f: table(f, "hearts/001/001_SA_ES.nii.gz", "hearts/001"), "file-missing"),
    (lambda f: table(f, "hearts/001/001_SA_ES.nii.gz", "/"), "file-missing"),
]
"""Faults planted in a folder with a csv, with their codes."""


def write_sites(folder: Path, *rows: str) -> None:
    (folder / "dataset.toml").write_text('affine-axes = "LPS"\ntable = "sites.csv"\n')
    (folder / "sites.csv").write_text("\n".join(["case,patient,site", *rows]))


def not_utf8(folder: Path) -> None:
    (folder / "imagesTr" / os.fsdecode(b"\xff_0000.nii.gz")).touch()
    toml(folder, PATTERN, "(?P<patient>.+)")


RAW_FAULTS: list[tuple[Plant, str]] = [
    (lambda f: (f / "dataset.toml").unlink(), "description-missing"),
    (lambda f: toml(f, "affine-axes = 'LPS'", ""), "description-key"),
    (lambda f: toml(f, "case-pattern", "# "), "description-key"),
    (lambda f: toml(f, "case-pattern", "table = 'a.csv'\ncase-pattern"), "description-key"),
    (lambda f: toml(f, "?P<patient>", "?P<subject>"), "description-key"),
    (lambda f: toml(f, r"\d+)", r"\d+"), "description-key"),
    (lambda f: toml(f, r"(?P<frame>\w+)", "(?P<frame>ED)"), "case-name"),
    (lambda f: said(f, channel_names={"0": "cine", "1": "LGE"}), "description-key"),
    (lambda f: said(f, channel_names=None), "description-key"),
    (lambda f: said(f, file_ending=".png"), "description-key"),
    (lambda f: said(f, labels=None), "description-key"),
    (lambda f: (f / "dataset.json").write_text("{"), "description-key"),
    (labelled(LV=1, MYO=2, RV=3, scar=4), "label-names"),
    (labelled(LV=1, MYO=2), "label-names"),
    (labelled(LV=[1, 2], MYO=2, RV=3), "label-names"),
    (labelled(LV=1, MYO=2, RV=3, ignore=4), "label-names"),
    (lambda f: (f / "labelsTr/lyon-001_ED.nii.gz").unlink(), "file-missing"),
    (lambda f: (f / "imagesTr/lyon-001_ED_0000.nii.gz").unlink(), "file-extra"),
    (lambda f: write_sites(f, "lyon-001_ED,1,lyon"), "case-unlisted"),
    (lambda f: write_sites(f, "../imagesTr/lyon-001_ED,1,lyon"), "row-cell"),
    (write_sites, "csv-missing"),
    (lambda f: toml(f, "case-", "columns = {patient = 'who'}\ncase-"), "description-key"),
    (lambda f: toml(f, PATTERN, "(?P<patient>.{99999999999})"), "description-key"),
    (lambda f: toml(f, PATTERN, f"{'(' * 5000}(?P<patient>x){')' * 5000}"), "description-key"),
    (lambda f: (f / "dataset.json").write_text(NESTED), "description-key"),
    (lambda f: table(f, '"LV": 1', '"LV": 2, "LV": 1', "dataset.json"), "description-key"),
    (
        lambda f: said(f, labels={"0": "background", "²": "LV", "2": "MYO", "3": "RV"}),
        "label-names",
    ),
    (lambda f: said(f, labels={"9" * 5000: "LV", "2": "MYO", "3": "RV"}), "label-names"),
    (labelled(LV=10**12, MYO=2, RV=3), "label-names"),
    (lambda f: said(f, file_ending=".nii"), "file-missing"),
    (lambda f: shutil.rmtree(f / "imagesTr"), "file-missing"),
    (lambda f: (f / "imagesTr/lyon-009_ED.nii.gz").touch(), "case-unlisted"),
    (lambda f: (f / "imagesTr/lyon-001_ED_0001.nii.gz").touch(), "case-unlisted"),
    (lambda f: (f / "imagesTr/lyon-009_ED_0000.nii").touch(), "case-unlisted"),
    (lambda f: (f / "labelsTr/lyon-009_ED.nii").touch(), "file-extra"),
    (not_utf8, "row-cell"),
]
"""Faults planted in a folder in nnU-Net's layout, with their codes."""


def latin(folder: Path, old: str) -> None:
    """Put a letter in ISO 8859-1 before some text of the csv."""
    path = folder / "cases.csv"
    path.write_bytes(path.read_bytes().replace(old.encode(), b"\xe9" + old.encode()))


def ids(faults: list[tuple[Plant, str]]) -> list[str]:
    return [f"{number}-{code}" for number, (_, code) in enumerate(faults)]


def look(folder: Path, code: str) -> Inspection:
    inspection = inspect_folder(folder)
    assert code in {fault.code for fault in inspection.findings}
    assert "check-failed" not in {fault.code for fault in inspection.findings}
    check_agrees(inspection)
    return inspection


@pytest.mark.parametrize(("plant", "code"), FAULTS, ids=ids(FAULTS))
def test_a_fault_of_a_described_folder_is_found(listed: Path, plant: Plant, code: str) -> None:
    plant(listed)
    look(listed, code)


@pytest.mark.parametrize(("plant", "code"), RAW_FAULTS, ids=ids(RAW_FAULTS))
def test_a_fault_of_nnunets_layout_is_found(raw: Path, plant: Plant, code: str) -> None:
    plant(raw)
    look(raw, code)


def test_a_pattern_that_takes_years_is_refused(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (raw / f"imagesTr/{'a' * 60}_0000.nii.gz").touch()
    toml(raw, PATTERN, r"(?P<patient>(\w+-?)+)_(?P<frame>ed)")
    monkeypatch.setattr(described, "MATCH_S", 0.5)
    refused(raw, "dataset.toml: case-pattern: ", "takes more than 0.5 s", "expected no repeated")


def test_a_path_leads_out_of_a_folder_by_any_name_of_it(
    listed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(listed, "hearts/001/001_SA_ES.", "../001_SA_ES.")
    for folder, here in ((listed, "."), (listed / "hearts", "..")):
        monkeypatch.chdir(folder)
        refused(Path(here), "leads out of the folder")


def test_a_frame_without_a_name_has_its_whole_images_name(listed: Path) -> None:
    for number, frame in enumerate(("ED", "ES")):
        path = listed / f"hearts/001/001_SA_{frame}.nii.gz"
        path.rename(path.with_name(f"1.2.{number}.nii.gz"))
        table(listed, path.name, f"1.2.{number}.nii.gz")
    table(listed, ",frame", ",phase")
    assert [case.frame for case in read_cases(listed)[:2]] == ["1.2.0", "1.2.1"]


def test_json_may_begin_with_a_byte_order_mark(raw: Path) -> None:
    path = raw / "dataset.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read_cases(raw)) == 12


def test_errors_name_file_row_column_what_was_found_and_what_was_expected(
    listed: Path, raw: Path
) -> None:
    table(listed, "p1,ES", "p1,")
    refused(listed, f"{listed / 'cases.csv'}: line 3", "frame is empty", "expected a value")
    toml(raw, "affine-axes = 'LPS'", "")
    refused(raw, f"{raw / 'dataset.toml'}: affine-axes: found None", 'expected affine-axes = "LPS"')
    toml(raw, "case-pattern", "affine-axes = 'LPS'\ncase-pattern")
    labelled(LV=1, MYO=2, RV=3, scar=4, oedema=5)(raw)
    refused(
        raw, f"{raw / 'dataset.json'}: labels: unknown names scar, oedema", "expected background"
    )
    labelled(LV=[1, 2], MYO=2, RV=3)(raw)
    refused(raw, "LV is a region of several labels [1, 2], expected one number each")
    said(raw, labels={"LV": 1, "MYO": 2, "RV": 3}, channel_names={"0": "cine", "1": "LGE"})
    refused(raw, "channel_names: found cine, LGE, expected one channel")
