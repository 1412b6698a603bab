"""``predict``: labels, tables and pictures for a folder, and a bad file among good ones."""

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from torch.nn.functional import cross_entropy
from typer.testing import CliRunner

from cardiac.clinical import Function, HeartFunction
from cardiac.datasets import ACDC_LABELS
from cardiac.measurements import CaseRow
from cardiac.segmentation import Scan
from cardiac.studies import Item, find_studies
from cardiac.study_prediction import How, Segmented, _no_ef, case_row, frame_rows, segment_item
from cli.predict import predict
from common import lora
from common.adapter import save_adapter
from common.errors import UserError
from common.labels import LV, MYO, RV
from common.model import build_unet, load_base, save_base
from tests.cardiac.samples import (
    TINY,
    heart_image,
    heart_labels,
    heart_volume,
    write_case,
    write_nifti,
)
from tests.cardiac.test_segmentation import Brightness
from tests.conftest import SMALL, MakeAdapter

SPACING_MM = (1.5, 1.5, 8.0)
Run = Callable[..., str]

app = typer.Typer()
app.command()(predict)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a base file that was briefly trained on images like those here."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = build_unet(SMALL)
        optimiser = torch.optim.AdamW(model.parameters(), lr=0.02)
        for step in range(60):
            volume = heart_volume(48, 2, seed=step)
            loss = cross_entropy(model(volume["image"]), volume["label"][:, 0].long())
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        save_base(model, path)
    return path


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Run:
    """Return a function that runs the command with the small model and returns its output."""
    config = tmp_path / "config.toml"
    keys = {**TINY, "spacing-mm": 1.5}
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))

    def run(*words: object, base: Path = base) -> str:
        fixed = ("--base", base, "--config", config)
        result = CliRunner().invoke(app, [str(word) for word in (*words, *fixed)])
        if result.exception is not None:
            result.exception.args += (result.output,)
            raise result.exception
        return result.output

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def write_cine(path: Path, frames: int = 3, slices: int = 3) -> Path:
    images = [heart_image(heart_labels(40, slices), seed) for seed in range(frames)]
    stored = np.stack([image.transpose(2, 1, 0) for image in images], axis=-1)
    return write_nifti(path, stored.astype(np.float32))


@pytest.fixture
def ward(tmp_path: Path) -> Path:
    """Return a folder with an ED and ES pair, a cine, and a frame of unknown phase."""
    folder = tmp_path / "ward"
    for frame in ("ED", "ES"):
        write_case(folder, frame=frame, slices=2)
    write_cine(folder / "cine.nii.gz")
    write_nifti(folder / "deep" / "alone.nii", heart_image(heart_labels(40, 2)).transpose(2, 1, 0))
    return folder


def test_a_folder_gets_labels_tables_and_pictures(run: Run, tmp_path: Path, ward: Path) -> None:
    out = tmp_path / "new" / "out"
    said = run(ward, "--out", out)
    assert {path.name for path in out.iterdir()} == {
        "001_SA_ED_seg.nii.gz", "001_SA_ES_seg.nii.gz", "001_SA_overlay.png",
        "cine_seg.nii.gz", "cine_overlay.png", "cine_beat.png",
        "alone_seg.nii.gz", "alone_overlay.png",
        "volumes.csv", "function.csv",
    }  # fmt: skip
    assert labels_of(out / "cine_seg.nii.gz").shape == (40, 40, 3, 3)
    with Image.open(out / "cine_beat.png") as beat:
        assert getattr(beat, "n_frames", 1) == 3
    assert "segmenting frames: 6/6" in said
    assert [row["case"] for row in rows(out / "function.csv")] == ["cine", "001_SA", "alone"]


def test_volumes_are_those_of_the_written_labels(run: Run, tmp_path: Path, ward: Path) -> None:
    run(ward, "--out", tmp_path / "out", "--no-pictures")
    volumes = rows(tmp_path / "out" / "volumes.csv")
    assert len(volumes) == 6
    for row in volumes:
        name = Path(row["file"]).name.removesuffix(".gz").removesuffix(".nii")
        labels = labels_of(tmp_path / "out" / f"{name}_seg.nii.gz")
        labels = labels.reshape(*labels.shape[:3], -1)[..., int(row["frame"]) - 1]
        for structure, label in (("LV", LV), ("MYO", MYO), ("RV", RV)):
            ml = np.sum(labels == label) * math.prod(SPACING_MM) / 1000
            assert row[f"{structure}_ml"] == (f"{ml:.2f}" if ml else "")
        if row["MYO_ml"]:
            assert float(row["MYO_g"]) == pytest.approx(1.05 * float(row["MYO_ml"]), abs=0.02)
    phases = {(row["case"], row["phase"]) for row in volumes}
    assert {("001_SA", "ED"), ("001_SA", "ES"), ("alone", "")} <= phases
    assert not list((tmp_path / "out").glob("*.png"))


def test_function_is_that_of_the_frames_marked_ed_and_es(
    run: Run, tmp_path: Path, ward: Path
) -> None:
    run(ward, "--out", tmp_path / "out", "--no-pictures")
    volumes = rows(tmp_path / "out" / "volumes.csv")
    for row in rows(tmp_path / "out" / "function.csv"):
        marked = {v["phase"]: v for v in volumes if v["case"] == row["case"] and v["phase"]}
        for side in ("LV", "RV"):
            ed, es = (marked.get(phase, {}).get(f"{side}_ml", "") for phase in ("ED", "ES"))
            assert (row[f"{side}_EDV_ml"], row[f"{side}_ESV_ml"]) == (ed, es)
            assert (row[f"{side}_EF_percent"] == "") == (not ed or not es)
        assert bool(row["LV_EF_percent"]) == (row["case"] != "alone")
        assert row["MYO_ED_g"] == marked.get("ED", {}).get("MYO_g", "")
        if row["case"] == "cine":
            assert [row["ED_frame"], row["ES_frame"]] == [marked[p]["frame"] for p in ("ED", "ES")]
        else:
            assert row["ED_frame"] == row["ES_frame"] == ""


def hearts_of(radii: list[int], slices: int = 3) -> np.ndarray:
    """Return labels (i, j, k, t) of a heart whose LV has these radii in pixels."""
    x, y = np.mgrid[:64, :64] - 32
    frames = []
    for radius in radii:
        frame = np.where(np.hypot(x + 12, y) < 9, RV, 0)
        frame = np.where(np.hypot(x - 6, y) < 18, MYO, frame)
        frames.append(np.where(np.hypot(x - 6, y) < radius, LV, frame))
    return np.stack([np.stack([frame] * slices, axis=-1) for frame in frames], axis=-1)


def test_a_cine_finds_its_ed_and_es_and_the_true_ejection_fraction(tmp_path: Path) -> None:
    truth = hearts_of([12, 14, 11, 8, 6, 9])
    path = write_nifti(tmp_path / "cine.nii.gz", heart_image(truth))
    (study,) = find_studies([path])
    how = How(Brightness(), 1.5, torch.device("cpu"), False, False, "LPS")
    file = segment_item(study.items[0], how, lambda: None)
    row = case_row(study, [file])
    assert (row.ed_frame, row.es_frame) == (2, 5)
    assert [frame.phase for frame in frame_rows(study, [file])] == ["", "ED", "", "", "ES", ""]
    edv, esv = (np.sum(truth[..., t] == LV) * math.prod(SPACING_MM) / 1000 for t in (1, 4))
    assert row.function.lv.edv_ml == pytest.approx(edv, rel=0.01)
    expected = 100 * (edv - esv) / edv
    assert row.function.lv.ejection_fraction_percent == pytest.approx(expected, abs=0.5)
    assert row.function.rv.ejection_fraction_percent == pytest.approx(0, abs=1)


def test_the_numbers_of_the_labels_are_chosen(run: Run, tmp_path: Path) -> None:
    cine = write_cine(tmp_path / "cine.nii.gz", 1)
    found = {}
    for labels in ("canonical", "mnms", "acdc"):
        run(cine, "--out", tmp_path / labels, "--labels", labels, "--no-pictures")
        found[labels] = labels_of(tmp_path / labels / "cine_seg.nii.gz")
    np.testing.assert_array_equal(found["canonical"], found["mnms"])
    back = np.array([ACDC_LABELS[value] for value in range(4)])
    np.testing.assert_array_equal(back[found["acdc"]], found["canonical"])
    assert (found["acdc"] != found["canonical"]).any()
    names = ("volumes.csv", "function.csv")
    for name in names:
        texts = {(tmp_path / labels / name).read_text() for labels in found}
        assert len(texts) == 1


def test_a_bad_file_is_refused_and_the_rest_goes_on(run: Run, tmp_path: Path, ward: Path) -> None:
    good = tmp_path / "good"
    run(ward, "--out", good, "--no-pictures")
    (ward / "a_broken.nii.gz").write_bytes((ward / "cine.nii.gz").read_bytes()[:5000])
    write_nifti(
        ward / "zz_thin.nii.gz", 9 * np.eye(9)[..., None] * np.ones(3), np.diag([1, 1, 1, 1.0])
    )
    with pytest.raises(UserError) as error:
        run(ward, "--out", tmp_path / "out")
    message, said = error.value.args
    assert message == "2 of 6 files were refused"
    assert f"Refused: {ward / 'a_broken.nii.gz'}: cannot be read as NIfTI" in said
    assert f"Refused: {ward / 'zz_thin.nii.gz'}: the spacing of slices" in said
    for path in good.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name
    run(ward / "zz_thin.nii.gz", "--out", tmp_path / "thin", "--any-spacing")
    assert labels_of(tmp_path / "thin" / "zz_thin_seg.nii.gz").shape == (9, 9, 3)


def test_half_a_pair_has_volumes_but_no_ejection_fraction(run: Run, tmp_path: Path) -> None:
    write_case(tmp_path / "ward", frame="ED", slices=2)
    es = write_case(tmp_path / "ward", frame="ES", slices=2)
    es.image.write_bytes(b"")
    with pytest.raises(UserError, match="1 of 2 files were refused"):
        run(tmp_path / "ward", "--out", tmp_path / "out")
    (row,) = rows(tmp_path / "out" / "function.csv")
    (volume,) = rows(tmp_path / "out" / "volumes.csv")
    assert volume["phase"] == "ED"
    assert row["no_EF"] == "EF needs ED and ES; found ED only"
    assert row["LV_EDV_ml"] == volume["LV_ml"]
    assert row["LV_ESV_ml"] == row["LV_EF_percent"] == ""


@pytest.mark.parametrize("stored", [np.uint8, np.float64])
@pytest.mark.parametrize("name", ["001_SA_ED_gt.nii.gz", "mask.nii.gz"])
def test_a_label_map_is_refused_and_the_rest_goes_on(
    run: Run, tmp_path: Path, ward: Path, stored: type, name: str
) -> None:
    labels: np.ndarray = heart_labels(40, 2).transpose(2, 1, 0).astype(stored)
    path = write_nifti(tmp_path / name, labels)
    with pytest.raises(UserError) as error:
        run(path, ward / "cine.nii.gz", "--out", tmp_path / "out", "--no-pictures")
    message, said = error.value.args
    assert message == "1 of 2 files were refused"
    (refusal,) = (line for line in said.splitlines() if line.startswith("Refused: "))
    assert refusal.startswith(f"Refused: {path}: ")
    assert "label map" in refusal
    assert refusal.endswith("expected an image")
    assert [row["case"] for row in rows(tmp_path / "out" / "function.csv")] == ["cine"]


def test_an_image_of_whole_numbers_is_no_label_map(run: Run, tmp_path: Path) -> None:
    image = heart_image(heart_labels(40, 2)).transpose(2, 1, 0).round().astype(np.int16)
    run(write_nifti(tmp_path / "x.nii.gz", image), "--out", tmp_path / "out", "--no-pictures")
    assert (tmp_path / "out" / "x_seg.nii.gz").is_file()


def test_a_missing_ejection_fraction_is_explained(run: Run, tmp_path: Path, ward: Path) -> None:
    said = run(ward, "--out", tmp_path / "out", "--no-pictures")
    reasons = {row["case"]: row["no_EF"] for row in rows(tmp_path / "out" / "function.csv")}
    reason = "EF needs ED and ES; found one frame that is not known to be either"
    assert reasons == {"cine": "", "001_SA": "", "alone": reason}
    assert f"No EF: alone: {reason}\n" in said
    assert said.count("No EF: ") == 1


@pytest.mark.parametrize(
    ("ed", "es", "reason"),
    [
        ({"LV": 100.0, "RV": 90.0}, {"LV": 40.0, "RV": 50.0}, ""),
        ({"LV": 100.0, "RV": 90.0}, {"LV": math.nan, "RV": 50.0},
         "EF needs the ventricle in ED and ES; found no LV in ES"),
        ({"LV": 100.0, "RV": math.nan}, {"LV": math.nan, "RV": math.nan},
         "EF needs the ventricle in ED and ES; found no LV in ES and no RV in ED and no RV in ES"),
    ],
)  # fmt: skip
def test_a_ventricle_that_was_not_found_is_why(
    ed: dict[str, float], es: dict[str, float], reason: str
) -> None:
    ml = [volumes | {"MYO": 80.0} for volumes in (ed, es)]
    file = Segmented(
        Item(Path("x"), "x", ""), cast(Scan, None), np.zeros(0), ml, {0: "ED", 1: "ES"}
    )
    assert _no_ef([file], dict(zip(("ED", "ES"), ml, strict=True))) == reason


def test_where_all_is_refused_nothing_is_written(run: Run, tmp_path: Path) -> None:
    (tmp_path / "x.nii").write_bytes(b"x")
    with pytest.raises(UserError, match="1 of 1 files were refused"):
        run(tmp_path / "x.nii", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_equal_names_do_not_overwrite_each_other(run: Run, tmp_path: Path) -> None:
    for hospital, slices in (("a", 2), ("b", 3)):
        write_cine(tmp_path / hospital / "scan.nii.gz", 2, slices)
    run(tmp_path / "a", tmp_path / "b", "--out", tmp_path / "out")
    for hospital, slices in (("a", 2), ("b", 3)):
        labels = labels_of(tmp_path / "out" / f"{hospital}_scan_seg.nii.gz")
        assert labels.shape == (40, 40, slices, 2)
        assert (tmp_path / "out" / f"{hospital}_scan_beat.png").is_file()
    assert {row["case"] for row in rows(tmp_path / "out" / "function.csv")} == {"a_scan", "b_scan"}


@pytest.mark.parametrize("place", ["out", "."])
def test_a_second_run_overwrites_and_takes_nothing_of_its_own_for_an_image(
    run: Run, ward: Path, place: str
) -> None:
    out = ward / place
    run(ward, "--out", out)
    first = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert "cine_seg.nii.gz" in first
    (out / "cine_seg.nii.gz").write_bytes(b"old")
    run(ward, "--out", out)
    second = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    assert second == first


def test_the_largest_component_is_kept_on_demand(run: Run, tmp_path: Path, ward: Path) -> None:
    sizes: dict[str, Any] = {}
    for name, words in (("plain", ()), ("clean", ("--largest-component",))):
        run(ward / "cine.nii.gz", "--out", tmp_path / name, "--no-pictures", *words)
        sizes[name] = labels_of(tmp_path / name / "cine_seg.nii.gz")
    assert ((sizes["clean"] == sizes["plain"]) | (sizes["clean"] == 0)).all()
    assert (sizes["clean"] != sizes["plain"]).any()


def test_the_adapter_counts_and_a_folded_base_needs_none(
    run: Run, tmp_path: Path, base: Path, make_adapter: MakeAdapter
) -> None:
    cine = write_cine(tmp_path / "cine.nii.gz", 1)
    adapter = make_adapter(scale=2.0)
    save_adapter(adapter, tmp_path / "adapter")
    model = load_base(base, SMALL)
    lora.fold(model, adapter)
    save_base(model, tmp_path / "folded")
    words = (cine, "--no-pictures", "--out")
    run(*words, tmp_path / "plain")
    run(*words, tmp_path / "adapted", "--adapter", tmp_path / "adapter")
    run(*words, tmp_path / "one_file", base=tmp_path / "folded")
    plain, adapted, folded = (
        labels_of(tmp_path / name / "cine_seg.nii.gz") for name in ("plain", "adapted", "one_file")
    )
    assert (plain != adapted).any()
    assert np.mean(folded != adapted) < 0.002


def test_mistakes_are_said_before_anything_is_done(run: Run, tmp_path: Path, ward: Path) -> None:
    (tmp_path / "file").write_text("")
    shutil.copy(ward / "cine.nii.gz", tmp_path / "image.nii.gz")
    for words, said in (
        ((tmp_path / "gone", "--out", tmp_path / "out"), "gone: no such file or folder"),
        ((ward, "--out", tmp_path / "file"), "file: is a file, expected a folder"),
        ((ward, "--out", tmp_path / "out", "--adapter", tmp_path / "no"), "No such file"),
    ):
        with pytest.raises(UserError, match=said):
            run(*words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("lv", "rv", "myo_g", "doubts"),
    [
        ((120.0, 50.0), (130.0, 70.0), 110.0, []),
        ((math.nan, 50.0), (math.nan, math.nan), math.nan, []),
        ((120.0, 121.0), (130.0, 70.0), 110.0, ["LV is larger at ES than at ED"]),
        ((120.0, 50.0), (489.8, 503.3), 930.9,
         ["RV is larger at ES than at ED", "a mass outside 20 to 500 g"]),
    ],
)  # fmt: skip
def test_function_that_no_heart_has_is_doubted(
    lv: tuple[float, float], rv: tuple[float, float], myo_g: float, doubts: list[str]
) -> None:
    row = CaseRow("case", None, None, HeartFunction(Function(*lv), Function(*rv), myo_g))
    assert row.doubts() == doubts
    assert row.cells()["doubts"] == "; ".join(doubts)
