"""The command ``check``: tables, files, and the status it ends with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from cardiac.faults import CODES
from cardiac.inspection import inspect, sheet
from cardiac.inspection.inspect import inspect_folder
from cardiac.inspection.thumbnails import SIDE
from cardiac.pictures import PAPER
from cli.check import check
from common.errors import UserError

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Return a function that runs the command in this process."""
    app = typer.Typer()
    app.command()(check)

    def run(*words: object) -> Result:
        result = CliRunner().invoke(app, [*map(str, words), "--jobs", "1"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def folder(phantom_dir: Path, tmp_path: Path) -> Path:
    """Return a copy of five patients in ACDC's layout."""
    return Path(shutil.copytree(phantom_dir / "acdc", tmp_path / "acdc"))


def label_of(folder: Path, patient: int) -> Path:
    return sorted((folder / "training" / f"patient{patient:03d}").glob("*_gt.nii.gz"))[0]


def with_warning(folder: Path) -> None:
    image = nib.load(label_of(folder, 2))
    image.set_sform(np.eye(4))
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), np.eye(4)), label_of(folder, 2))


def with_error(folder: Path) -> None:
    label_of(folder, 3).write_bytes(b"")


def test_a_clean_folder_ends_with_0_even_when_strict(run: Run, folder: Path) -> None:
    result = run(folder, "--strict")
    assert result.exit_code == 0
    assert "5 patients, 10 cases: nothing found" in result.stdout


def test_warnings_count_only_when_strict_and_errors_always(run: Run, folder: Path) -> None:
    with_warning(folder)
    assert run(folder).exit_code == 0
    result = run(folder, "--strict")
    assert result.exit_code == 1
    assert "affine-differs" in result.stdout
    assert "1 warning" in result.stdout
    with_error(folder)
    result = run(folder, "--strict")
    assert result.exit_code == 2
    assert "1 error, 1 warning" in result.stdout


def test_with_a_sites_file_its_own_minimum_counts(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def inspect(*_: object, **keys: object) -> object:
        given.update(keys)
        return inspect_folder(*_, **keys)  # type: ignore[arg-type]

    monkeypatch.setattr("cli.check.inspect_folder", inspect)
    site = tmp_path / "site.toml"
    text = 'superlink = "h:1"\ninsecure = true\nsite = "A"\ndata-dir = "x"\nbase-model = "y"\n'
    site.write_text(text + 'split-seed = 7\nserves = "train,validate"\nsplit-by = "GROUP"\n')
    result = run(folder, "--site-file", site)
    assert result.exit_code == 2
    said = " ".join(result.stdout.split())
    assert "expected at least 15: 10 to train on, 5 to validate on, 0 to test on" in said
    assert (given["split_seed"], given["split_by"]) == (7, "GROUP")
    site.write_text(text + 'min-patients = 1\nmin-train-patients = 3\nsplit-by = "GROUP"\n')
    said = " ".join(run(folder, "--site-file", site).stdout.split())
    assert "expected at least 5: 3 to train on, 1 to validate on, 1 to test on" in said


def test_what_is_no_data_folder_is_an_error_for_people(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such data folder"):
        run(tmp_path / "nowhere")


def test_json_holds_findings_cases_and_scanners(run: Run, folder: Path, tmp_path: Path) -> None:
    with_error(folder)
    out = tmp_path / "out" / "report.json"
    run(folder, "--json", out)
    report = json.loads(out.read_text())
    (finding,) = report["findings"]
    assert (finding["severity"], finding["code"]) == ("error", "file-unreadable")
    assert finding["case"] == "patient003 ED"
    assert finding["file"] == label_of(folder, 3).name
    assert report["counts"] == {"error": 1, "warning": 0, "info": 0}
    assert len(report["cases"]) == 10
    by_case = {case["case"]: case for case in report["cases"]}
    assert by_case["patient003 ED"]["volumes_ml"] is None
    assert by_case["patient003 ED"]["findings"] == ["file-unreadable"]
    fine = by_case["patient001 ED"]
    assert fine["findings"] == []
    assert fine["spacing_mm"] == [1.5, 1.5, 10]
    assert fine["volumes_ml"]["LV"] > 20
    (row,) = report["scanners"]
    assert (row["patients"], row["frames"]) == (5, 10)
    assert row["slices"] == sum(case["shape"][2] for case in report["cases"])


@pytest.mark.parametrize(
    ("option", "place"),
    [("--json", "file/report.json"), ("--json", "folder"), ("--sheets", "file")],
)
def test_a_place_that_cannot_be_written_is_said_before_the_work(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, place: str
) -> None:
    def work(*_: object, **__: object) -> None:
        raise AssertionError("it works")

    monkeypatch.setattr("cli.check.inspect_folder", work)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError) as error:
        run(folder, option, tmp_path / place)
    assert str(error.value).startswith(f"{tmp_path / place}: ")
    with pytest.raises(AssertionError, match="it works"):
        run(folder, option, tmp_path / "new" / "place")
    assert not (tmp_path / "new").exists()


def test_the_scanners_of_every_site_have_their_row(phantom_dir: Path) -> None:
    rows = inspect_folder(phantom_dir / "mnms2").scanners
    assert [(row.site, row.scanner, row.patients) for row in rows] == [
        ("GE", "SIGNA EXCITE 1.5", 4),
        ("Philips", "Achieva 1.5", 5),
        ("Siemens", "Avanto 1.5", 6),
    ]
    assert [row.in_plane_mm for row in rows] == [(1.6, 1.6), (1.2, 1.2), (1.35, 1.35)]


def test_a_fault_of_the_whole_export_does_not_fill_the_screen(run: Run, folder: Path) -> None:
    for path in folder.rglob("*_gt.nii.gz"):
        path.write_bytes(b"")
    result = run(folder)
    assert result.stdout.count("file-unreadable") == 8 + 1
    assert "2 more" in result.stdout


def test_the_sheets_have_a_panel_for_every_case(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "PANELS", 4)
    with_error(folder)
    image = label_of(folder, 4).with_name(label_of(folder, 4).name.replace("_gt", ""))
    image.unlink()
    run(folder, "--sheets", tmp_path / "sheets")
    pages = sorted((tmp_path / "sheets").iterdir())
    assert [page.name for page in pages] == ["sheet-all-2.png", "sheet-all-3.png", "sheet-all.png"]
    shown = sum(panels(np.asarray(Image.open(page))) for page in pages)
    assert shown == 10


def panels(page: np.ndarray) -> int:
    """Count the panels of a page of one row: none is as dark as the paper between them."""
    below_caption = page[18 : 18 + SIDE]
    paper = (below_caption == PAPER).all(axis=(0, 2))
    starts = np.flatnonzero(paper[:-1] & ~paper[1:])
    return len(starts)


def test_processes_report_the_same_as_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_error(folder)
    monkeypatch.setattr(inspect, "FEW_CASES", 0)
    done: list[tuple[int, int]] = []
    two = inspect_folder(folder, jobs=2, progress=lambda *step: done.append(step))
    assert two.as_dict() == inspect_folder(folder).as_dict()
    assert done == [(number, 10) for number in range(1, 11)]


def test_a_case_that_nobody_thought_of_does_not_stop_the_others(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = 0

    def fails_once(*_: object) -> list[tuple[str, str]]:
        nonlocal seen
        seen += 1
        if seen == 3:
            raise ZeroDivisionError("a surprise")
        return []

    monkeypatch.setattr("cardiac.inspection.grid.check_grid", fails_once)
    inspection = inspect_folder(folder)
    assert [(f.code, f.case) for f in inspection.findings] == [("check-failed", "patient002 ED")]
    assert CODES["check-failed"] == "error"
