"""Every fault that is planted in a clean folder is found, on the right case, and nothing else."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion

from cardiac.datasets import read_cases
from cardiac.datasets.mnms2 import INDEX as MNMS_INDEX
from cardiac.faults import CODES
from cardiac.inspection.inspect import Inspection, inspect_folder
from cardiac.phantom import write_phantom
from cardiac.phantom.writer import MOST_PER_VENDOR
from cardiac.splits import split_patients
from common.errors import UserError
from common.labels import LV, MYO, RV
from tests.cardiac.samples import check_agrees, patch_header
from tests.cardiac.test_described import FAULTS, RAW_FAULTS

FIRST, SECOND, THIRD = (f"{MOST_PER_VENDOR + n}" for n in (1, 2, 3))
"""Patients of the M&Ms-2 phantom, whose scanner stores oblique slices."""
Edit = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="session")
def clean_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return three patients in each layout, not to be written to."""
    out = tmp_path_factory.mktemp("clean")
    write_phantom(out, acdc_patients=3, patients={"Philips Medical Systems": 3})
    return out


@pytest.fixture
def mnms2(clean_dir: Path, tmp_path: Path) -> Path:
    """Return a copy in the M&Ms-2 layout, to be spoilt."""
    return Path(shutil.copytree(clean_dir / "mnms2", tmp_path / "mnms2"))


@pytest.fixture
def acdc(clean_dir: Path, tmp_path: Path) -> Path:
    """Return a copy in ACDC's layout, to be spoilt."""
    return Path(shutil.copytree(clean_dir / "acdc", tmp_path / "acdc"))


def image_of(folder: Path, patient: str = FIRST, frame: str = "ED") -> Path:
    return folder / "dataset" / patient / f"{patient}_SA_{frame}.nii.gz"


def label_of(folder: Path, patient: str = FIRST, frame: str = "ED") -> Path:
    return folder / "dataset" / patient / f"{patient}_SA_{frame}_gt.nii.gz"


def edit(path: Path, change: Edit, kind: type = np.float32) -> None:
    """Write the file anew with other voxels."""
    image = nib.load(path)
    data: np.ndarray = change(np.asarray(image.dataobj)).astype(kind)
    nib.save(nib.Nifti1Image(data, image.affine), path)


def edit_affine(path: Path, change: Edit) -> None:
    """Write the file anew with another affine, which may be any."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), change(image.affine)), path)


def both(folder: Path, change: Callable[[Path, Edit], None], by: Edit, frames: str = "ED") -> None:
    """Change image and label of the first patient alike, in some frames."""
    for frame in frames.split():
        for path in (image_of(folder, frame=frame), label_of(folder, frame=frame)):
            change(path, by)


def zoom(*factors: float) -> Edit:
    return lambda affine: affine @ np.diag([*factors, 1.0])


def numbers(*values: float) -> Edit:
    """Return an edit that replaces the values 0, 1, 2, 3 by others."""
    return lambda label: np.array(values)[label.astype(int)]


def without(structure: int, to: int = 0) -> Edit:
    return lambda label: np.where(label == structure, to, label)


def table(folder: Path, change: Callable[[list[list[str]]], object]) -> None:
    """Change the rows of the csv, its header among them."""
    path = folder / MNMS_INDEX
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


# --- faults of the M&Ms-2 layout: what plants it, and the code


def no_index(folder: Path) -> None:
    (folder / MNMS_INDEX).unlink()


def semicolons(folder: Path) -> None:
    path = folder / MNMS_INDEX
    path.write_text(path.read_text().replace(",", ";"))


def no_vendor(folder: Path) -> None:
    table(folder, lambda rows: [row.pop(2) for row in rows])


def strange_vendor(folder: Path) -> None:
    table(folder, lambda rows: [row.__setitem__(2, "PHILLIPS") for row in rows[1:]])


def no_vendor_value(folder: Path) -> None:
    table(folder, lambda rows: [row.__setitem__(2, "") for row in rows[1:]])


FOLDER_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (no_index, "csv-missing"),
    (semicolons, "csv-column"),
    (no_vendor, "column-missing"),
    (strange_vendor, "vendor-unknown"),
    (lambda f: table(f, lambda rows: rows.append(["", "NOR", "GE"])), "csv-row"),
    (lambda f: table(f, lambda rows: rows[1].append("surplus")), "csv-row"),
]
"""Faults that are reported for the whole folder."""

PATIENT_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: table(f, lambda rows: rows.append(rows[1])), "subject-twice"),
    (lambda f: table(f, lambda rows: rows[1].__setitem__(2, "")), "column-empty"),
    (lambda f: (image_of(f).parent / "notes.txt").touch(), "file-extra"),
    (lambda f: shutil.copy(image_of(f, frame="ES"), image_of(f)), "frames-same"),
    (lambda f: shutil.copy(label_of(f, frame="ES"), label_of(f)), "labels-same"),
    (lambda f: both(f, edit_affine, zoom(1, 1, 0.8)), "frames-differ"),
    (lambda f: both(f, edit, lambda a: a[..., :-1]), "frames-differ"),
]
"""Faults that are reported for the first patient, not for a frame."""


def checksum_of_another(path: Path) -> bytes:
    """Return a .nii.gz file that decodes to its end, but not to what was written."""
    data = path.read_bytes()
    return data[:-8] + bytes(byte ^ 1 for byte in data[-8:-4]) + data[-4:]


def truncate(folder: Path) -> None:
    path = image_of(folder)
    path.write_bytes(path.read_bytes()[:20_000])


def plain_nifti(folder: Path) -> None:
    image_of(folder).rename(image_of(folder).with_suffix(""))


def bare_lv(label: np.ndarray) -> np.ndarray:
    """Take away the MYO around the LV but for its outermost pixels."""
    near = binary_dilation(label == LV, np.ones((3, 3, 1)), iterations=2) & (label == MYO)
    return np.where(near, 0, label)


def rv_afar(label: np.ndarray) -> np.ndarray:
    """Remove the RV's pixels that touch other structures."""
    inner = binary_erosion(label == RV, np.ones((3, 3, 1)), iterations=2)
    return np.where((label == RV) & ~inner, 0, label)


def hollow(label: np.ndarray) -> np.ndarray:
    """Empty the structures' insides."""
    inner = binary_erosion(label == LV, np.ones((3, 3, 1)), iterations=2)
    return np.where(inner, 0, label)


def island(label: np.ndarray) -> np.ndarray:
    """Put a spot of LV into a corner, where no heart is."""
    label = label.copy()
    label[3:6, 3:6, 4] = LV
    return label


def in_two(label: np.ndarray) -> np.ndarray:
    """Label the RV of the apical half as LV."""
    label = label.copy()
    half = label[..., 4:]
    half[half == RV] = LV
    return label


def gap(label: np.ndarray) -> np.ndarray:
    label = label.copy()
    middle = int(np.median(np.flatnonzero((label == RV).any((0, 1)))))
    label[..., middle][label[..., middle] == RV] = 0
    return label


def to_edge(array: np.ndarray) -> np.ndarray:
    """Cut the field of view through the heart."""
    return array[array.shape[0] // 2 - 14 :]


def spoil(value: float) -> Edit:
    def change(image: np.ndarray) -> np.ndarray:
        image = image.astype(np.float32)
        image[5, 6, 2] = value
        return image

    return change


def blank_slice(image: np.ndarray) -> np.ndarray:
    image = image.copy()
    image[..., 3] = 7
    return image


def ras(affine: np.ndarray) -> np.ndarray:
    """Turn an affine into RAS, as NIfTI means it, while the reader expects LPS."""
    mirrored: np.ndarray = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return mirrored


def turned_between(affine: np.ndarray) -> np.ndarray:
    """Turn by 53° in plane, which for this patient's tilt is midway between two views."""
    turn = np.eye(4)
    cosine, sine = np.cos(np.radians(53)), np.sin(np.radians(53))
    turn[:2, :2] = [[cosine, -sine], [sine, cosine]]
    turned: np.ndarray = affine @ turn
    return turned


PIXDIM = np.array([2, 2, 10], "<f4").tobytes()

IMAGE_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: image_of(f).unlink(), "file-missing"),
    (plain_nifti, "file-missing"),
    (truncate, "file-unreadable"),
    (lambda f: image_of(f).write_bytes(b"nothing"), "file-unreadable"),
    (lambda f: image_of(f).write_bytes(checksum_of_another(image_of(f))), "file-unreadable"),
    (lambda f: edit(image_of(f), lambda a: a[..., None]), "not-3d"),
    (lambda f: edit(image_of(f), lambda a: np.stack([a, a], axis=3)), "not-3d"),
    (lambda f: patch_header(image_of(f), 42, b"\xff\x0f\xff\x0f\xff\x0f"), "file-huge"),
    (lambda f: edit(image_of(f), spoil(np.nan)), "image-not-finite"),
    (lambda f: edit(image_of(f), spoil(np.inf)), "image-not-finite"),
    (lambda f: edit(image_of(f), spoil(1e38)), "image-not-finite"),
    (lambda f: edit(image_of(f), np.ones_like), "image-constant"),
    (lambda f: edit(image_of(f), lambda a: a // 200), "image-few-values"),
    (lambda f: edit(image_of(f), lambda a: np.minimum(a, np.median(a))), "image-clipped"),
    (lambda f: edit(image_of(f), blank_slice), "slice-blank"),
    (lambda f: edit(image_of(f), lambda a: a[:-1]), "shape-differs"),
    (lambda f: patch_header(image_of(f), 80, PIXDIM), "spacing-header"),
    (lambda f: patch_header(image_of(f), 123, b"\x03"), "spacing-unit"),
    (lambda f: both(f, edit_affine, zoom(0.2, 0.2, 1)), "spacing-in-plane"),
    (lambda f: both(f, edit_affine, zoom(1, 1.2, 1)), "spacing-uneven"),
    (lambda f: both(f, edit_affine, zoom(1, 1, 0.1)), "spacing-slice"),
    (lambda f: both(f, edit, lambda a: a.transpose(2, 0, 1)), "slice-axis"),
    (lambda f: both(f, edit, lambda a: a[..., 2:5], "ED ES"), "slice-count"),
    (lambda f: both(f, edit, lambda a: a[30:-30, 30:-30], "ED ES"), "field-of-view"),
    (lambda f: both(f, edit_affine, turned_between, "ED ES"), "view-unsure"),
    (lambda f: patch_header(image_of(f), 280, bytes(48)), "affine-degenerate"),
]
"""Faults that are reported for the first patient's ED image."""

LABEL_FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (lambda f: label_of(f).unlink(), "file-missing"),
    (lambda f: label_of(f).write_bytes(b""), "file-unreadable"),
    (lambda f: patch_header(label_of(f), 280, bytes(48)), "affine-degenerate"),
    (lambda f: edit_affine(label_of(f), lambda _: np.eye(4)), "affine-differs"),
    (lambda f: edit_affine(label_of(f), lambda a: a + 20 * np.eye(4, k=3)), "affine-differs"),
    (lambda f: edit(label_of(f), numbers(0, 1, 2, 4)), "label-values"),
    (lambda f: edit(label_of(f), numbers(0, 85, 170, 255)), "label-values"),
    (lambda f: edit(label_of(f), numbers(0, 0.9, 2, 3)), "label-not-whole"),
    (lambda f: edit(label_of(f), numbers(0, np.nan, 2, 3)), "label-not-whole"),
    (lambda f: edit(label_of(f), np.zeros_like), "label-empty"),
    (lambda f: edit(label_of(f), numbers(0, 3, 2, 1)), "label-numbering"),
    (lambda f: edit(label_of(f), numbers(0, 2, 1, 3)), "label-numbering"),
    (lambda f: edit(label_of(f), numbers(0, 1, 0, 0)), "structure-missing"),
    (lambda f: edit(label_of(f), without(RV)), "structure-missing"),
    (lambda f: edit(label_of(f), without(MYO, to=LV)), "structure-missing"),
    (lambda f: both(f, edit_affine, zoom(2.4, 2.4, 1)), "structure-volume"),
    (lambda f: edit(label_of(f), bare_lv), "lv-uncovered"),
    (lambda f: edit(label_of(f), rv_afar), "rv-apart"),
    (lambda f: edit(label_of(f), hollow), "label-holes"),
    (lambda f: edit(label_of(f), island), "label-stray"),
    (lambda f: edit(label_of(f), in_two), "structure-pieces"),
    (lambda f: edit(label_of(f), gap), "structure-gap"),
    (lambda f: both(f, edit, to_edge), "label-cut"),
    (lambda f: edit(label_of(f), lambda a: np.roll(a, 30, axis=1)), "blood-dark"),
    (lambda f: edit(image_of(f), lambda a: a.max() - a), "blood-dark"),
    (lambda f: both(f, edit, lambda a: a[::-1]), "view-turned"),
    (lambda f: both(f, edit, lambda a: a.swapaxes(0, 1)), "view-turned"),
    (lambda f: both(f, edit_affine, ras, "ED ES"), "view-turned"),
    (lambda f: both(f, edit_affine, ras, "ED ES"), "view-mirrored"),
]
"""Faults that are reported for the first patient's ED label, by which others are seen too."""

MANY = [
    *((plant, code, "") for plant, code in FOLDER_FAULTS),
    *((plant, code, FIRST) for plant, code in PATIENT_FAULTS),
    *((plant, code, f"{FIRST} ED") for plant, code in [*IMAGE_FAULTS, *LABEL_FAULTS]),
]


@pytest.mark.parametrize("layout", ["acdc", "mnms2"])
def test_a_clean_folder_gives_no_finding_at_all(clean_dir: Path, layout: str) -> None:
    inspection = inspect_folder(clean_dir / layout)
    assert inspection.findings == []
    assert len(inspection.reports) == 6


def test_three_vendors_are_clean(phantom_dir: Path) -> None:
    inspection = inspect_folder(phantom_dir / "mnms2")
    assert inspection.findings == []
    assert list(inspection.sites) == ["GE", "Philips", "Siemens"]


@pytest.mark.parametrize(
    ("plant", "code", "case"), MANY, ids=[f"{n}-{code}" for n, (_, code, _) in enumerate(MANY)]
)
def test_a_fault_is_found_where_it_is(
    mnms2: Path, plant: Callable[[Path], object], code: str, case: str
) -> None:
    plant(mnms2)
    inspection = inspect_folder(mnms2)
    assert code in {finding.code for finding in inspection.findings if finding.case == case}
    assert not said_of_others(inspection)
    assert "check-failed" not in {finding.code for finding in inspection.findings}
    check_agrees(inspection)


def said_of_others(inspection: Inspection) -> list[str]:
    """Return the findings on cases that have no fault."""
    return [
        f"{f.case}: {f.code}" for f in inspection.findings if f.case.startswith((SECOND, THIRD))
    ]


def found(inspection: Inspection) -> set[tuple[str, str]]:
    return {(finding.code, finding.case) for finding in inspection.findings}


# --- ACDC's layout


def info_of(folder: Path) -> Path:
    return folder / "training" / "patient001" / "Info.cfg"


@pytest.mark.parametrize(
    ("plant", "code"),
    [
        (lambda f: info_of(f).unlink(), "info-missing"),
        (lambda f: info_of(f).write_text("ED: one\nES: 9\n"), "info-frame"),
        (lambda f: info_of(f).write_text("Group: NOR\n"), "info-frame"),
        (lambda f: info_of(f).write_text("ED: 1\nES: 1\n"), "info-frame"),
        (lambda f: info_of(f).write_text(info_of(f).read_text() + "NbFrame: 3\n"), "info-range"),
        (lambda f: shutil.copy(info_of(f), info_of(f).with_name("old.cfg")), "file-extra"),
    ],
)
def test_a_fault_of_info_cfg_is_found(
    acdc: Path, plant: Callable[[Path], object], code: str
) -> None:
    plant(acdc)
    inspection = inspect_folder(acdc)
    assert (code, "patient001") in found(inspection)
    check_agrees(inspection, column=None)
    assert not [f for f in inspection.findings if not f.case.startswith("patient001")]


def test_without_info_cfg_the_two_labelled_frames_are_looked_at(acdc: Path) -> None:
    info_of(acdc).unlink()
    inspection = inspect_folder(acdc)
    assert found(inspection) == {("info-missing", "patient001")}
    assert len(inspection.reports) == 6


def test_labels_with_the_other_data_sets_numbers_are_found_in_every_case(acdc: Path) -> None:
    for path in acdc.rglob("*_gt.nii.gz"):
        edit(path, numbers(0, 3, 2, 1))
    inspection = inspect_folder(acdc)
    numbering = [f for f in inspection.findings if f.code == "label-numbering"]
    assert len(numbering) == 6
    check_agrees(inspection, column=None)
    assert "numbers are LV 1, MYO 2, RV 3; expected LV 3, MYO 2, RV 1" in numbering[0].message


# --- patients and sites


def test_exchanged_frames_are_found(mnms2: Path) -> None:
    for of in (image_of, label_of):
        ed, es = of(mnms2), of(mnms2, frame="ES")
        ed.rename(spare := ed.with_name("spare"))
        es.rename(ed)
        spare.rename(es)
    assert found(inspect_folder(mnms2)) == {("es-larger", FIRST)}


def test_a_folder_that_is_not_listed_and_a_row_without_a_folder(mnms2: Path) -> None:
    (mnms2 / "dataset" / FIRST).rename(mnms2 / "dataset" / "999")
    inspection = inspect_folder(mnms2)
    assert {("folder-missing", FIRST), ("folder-unlisted", "999")} <= found(inspection)
    check_agrees(inspection)
    assert not said_of_others(inspection)


def copied(mnms2: Path, change: Edit | None) -> Inspection:
    """Give the first patient the image of a patient in another split; headers differ."""
    split = {p: s for s, all_p in split_patients([FIRST, SECOND, THIRD], 0).items() for p in all_p}
    assert split[FIRST] != split[SECOND]
    image = nib.load(image_of(mnms2, SECOND))
    data: np.ndarray = np.asarray(image.dataobj).astype(np.float64)
    data = data if change is None else change(data)
    nib.save(nib.Nifti1Image(data, 1.01 * nib.load(image_of(mnms2)).affine), image_of(mnms2))
    return inspect_folder(mnms2)


@pytest.mark.parametrize(
    ("change", "how"),
    [
        (None, "hold the same image"),
        (lambda a: a[::-1], "the same image, turned or mirrored"),
        (lambda a: a.swapaxes(0, 1), "the same image, turned or mirrored"),
    ],
)
def test_one_image_under_two_patients_is_found_and_so_is_the_leak(
    mnms2: Path, change: Edit | None, how: str
) -> None:
    inspection = copied(mnms2, change)
    assert {("duplicate-image", FIRST), ("split-leak", FIRST)} <= found(inspection)
    message = next(f.message for f in inspection.findings if f.code == "duplicate-image")
    assert how in message
    assert f"{FIRST} ED" in message
    assert f"{SECOND} ED" in message


def test_one_label_under_two_patients_is_found(mnms2: Path) -> None:
    shutil.copy(label_of(mnms2, SECOND), label_of(mnms2))
    assert ("duplicate-label", FIRST) in found(inspect_folder(mnms2))


def test_a_site_that_cannot_be_split_is_found(mnms2: Path) -> None:
    table(mnms2, lambda rows: rows[1].__setitem__(2, "GE"))
    inspection = inspect_folder(mnms2)
    assert [f.code for f in inspection.findings] == ["site-small", "site-small"]
    assert "site GE has 1 patient(s)" in inspection.findings[0].message
    check_agrees(inspection)
    assert inspect_folder(mnms2, split_by="FIELD").findings == []


def test_a_column_that_is_asked_for_and_not_there_is_found(acdc: Path) -> None:
    inspection = inspect_folder(acdc, split_by="HOSPITAL")
    assert found(inspection) == {("column-missing", "")}
    check_agrees(inspection, column="HOSPITAL")


@pytest.mark.parametrize(
    ("layout", "message"),
    [(None, "no such data folder"), ("", "neither M&Ms-2"), ("dataset", "holds no patient")],
)
def test_what_is_no_data_folder_is_a_line_for_people(
    tmp_path: Path, layout: str | None, message: str
) -> None:
    folder = tmp_path / "data"
    if layout is not None:
        (folder / layout).mkdir(parents=True)
        if layout:
            (folder / MNMS_INDEX).write_text("SUBJECT_CODE,VENDOR\n")
    with pytest.raises(UserError, match=message):
        inspect_folder(folder)


def test_a_folder_whose_index_lists_nobody_is_refused_by_check_and_training(mnms2: Path) -> None:
    table(mnms2, lambda rows: rows.__delitem__(slice(1, None)))
    for read in (inspect_folder, read_cases):
        with pytest.raises(UserError, match=f"holds no patient; no row for .*dataset/{FIRST}"):
            read(mnms2)


def test_every_code_is_planted_somewhere() -> None:
    """A new code needs a new planted fault; some are planted in other tests."""
    elsewhere = {
        *("info-missing", "info-frame", "info-range", "folder-missing", "folder-unlisted"),
        *("es-larger", "duplicate-image", "duplicate-label", "split-leak", "site-small"),
        *("check-failed", "frame-missing", "csv-several", "folder-several", "patient-sites"),
        *(code for _, code in [*FAULTS, *RAW_FAULTS]),
    }
    assert set(CODES) == {code for _, code, _ in MANY} | elsewhere


def test_files_that_hold_ras_axes_are_found_out_and_are_clean_when_it_is_said(mnms2: Path) -> None:
    for path in sorted(mnms2.rglob("*.nii.gz")):
        edit_affine(path, lambda affine: np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    found = {finding.code for finding in inspect_folder(mnms2).findings}
    assert "view-turned" in found
    assert inspect_folder(mnms2, affine_axes="RAS").findings == []
