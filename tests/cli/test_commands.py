"""The commands write what they promise and name a person's mistake in one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from cardiac.datasets import read_cases
from cardiac.phantom import write_phantom
from cardiac.splits import split_cases
from cli import phantom as command
from common import lora
from common.adapter import save_adapter
from common.model import build_unet, file_sha256, load_base, save_base
from tests.cardiac.samples import TINY, write_case, write_mnms2_hearts, write_nifti, write_table
from tests.cli.running import Ended, Run
from tests.conftest import SMALL, MakeAdapter

COLUMNS = {"LV", "MYO", "RV", "mean"}


def test_names_that_are_not_utf8_are_printed(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    ended = run("check", folder)
    assert ended.status == 2
    assert r"\udcff: neither M&Ms-2" in ended.error


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an untrained base file."""
    path = tmp_path_factory.mktemp("base") / "base.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_base(build_unet(SMALL), path)
    return path


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def config(tmp_path: Path, cache: Path) -> Path:
    """Return a configuration file for the small model."""
    return write_config(tmp_path / "config.toml", {"cache-dir": str(cache)})


def write_config(path: Path, changes: dict[str, object]) -> Path:
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in {**TINY, **changes}.items())
    path.write_text("".join(lines))
    return path


@pytest.fixture
def hearts(tmp_path: Path) -> Path:
    """Return a folder of three small patients of one vendor."""
    return write_mnms2_hearts(tmp_path / "hearts", {"GE": 3}, slices=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- phantom


@pytest.fixture
def few_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    few = partial(write_phantom, acdc_patients=1)
    monkeypatch.setattr(command, "write_phantom", few)


@pytest.mark.usefixtures("few_patients")
def test_phantom_writes_both_layouts_and_the_same_for_a_seed(run: Run, tmp_path: Path) -> None:
    for out, *options in (
        ("a", "--seed", 4),
        ("b", "--seed", 4),
        ("c", "--seed", 5),
        ("d", "--seed", 4, "--heterogeneity", 0),
    ):
        ended = run("phantom", tmp_path / out, "--patients", 1, *options)
        assert ended.status == 0, ended.error
        assert str(tmp_path / out / "mnms2") in ended.out
    a, b, c, d = (contents(tmp_path / name) for name in "abcd")
    assert a == b
    images = {name for name in a if name.endswith(".nii.gz")}
    assert not [name for name in images & set(c) if a[name] == c[name]]
    assert {name for name in a if a[name] != d[name]} == {n for n in images if "mnms2" in n}
    for layout, patients in (("acdc", 1), ("mnms2", 3)):  # one of every vendor
        assert len(read_cases(tmp_path / "a" / layout)) == 2 * patients


@pytest.mark.usefixtures("few_patients")
def test_phantom_leaves_a_folder_that_holds_something_alone(run: Run, tmp_path: Path) -> None:
    (tmp_path / "acdc").mkdir()
    (tmp_path / "acdc" / "mine").write_text("precious")
    refused(run("phantom", tmp_path), str(tmp_path / "acdc"), "expected it new or empty")
    assert contents(tmp_path) == {"acdc/mine": b"precious"}


# --- pretrain


def test_pretrain_writes_a_base_and_says_its_fingerprint(
    run: Run, tmp_path: Path, config: Path, hearts: Path
) -> None:
    out = tmp_path / "bases [2024]" / "base.safetensors"
    ended = run("pretrain", "--data", hearts, "--out", out, "--config", config)
    assert ended.status == 0, ended.error
    lines = ended.out.splitlines()
    assert f"{out}: SHA-256 {file_sha256(out)}" in lines
    assert lines[-1].startswith("Dice on 2 held-out cases: 0.")
    load_base(out, SMALL)
    assert [path.name for path in out.parent.iterdir()] == ["base.safetensors"]


# --- evaluate


def evaluated(run: Run, out: Path, *words: object) -> dict[str, Any]:
    ended = run("evaluate", *words, "--json", out)
    assert ended.status == 0, ended.error
    scores: dict[str, Any] = json.loads(out.read_text(), parse_constant=fail_on_constant)
    return scores


def fail_on_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_evaluate_writes_one_group_per_site_in_the_promised_form(
    run: Run, tmp_path: Path, config: Path, base: Path
) -> None:
    vendors = {"SIEMENS": 3, "GE MEDICAL SYSTEMS": 1, "Philips Medical Systems": 2}
    folder = write_mnms2_hearts(tmp_path / "d", vendors, slices=2)
    words = ("--base", base, "--data", folder, "--config", config)
    scores = evaluated(run, tmp_path / "scores.json", *words)
    assert set(scores) == {"groups", "mean"}
    assert {name: group["cases"] for name, group in scores["groups"].items()} == {
        "GE": 2,
        "Philips": 4,
        "Siemens": 6,
    }
    for group in scores["groups"].values():
        assert set(group) == {"cases", "dice", "hd95_mm"}
        assert set(group["dice"]) == set(group["hd95_mm"]) == COLUMNS
        structures = [group["dice"][name] for name in ("LV", "MYO", "RV")]
        assert group["dice"]["mean"] == pytest.approx(sum(structures) / 3)
        assert all(value > 0 for value in group["hd95_mm"].values())
    assert set(scores["mean"]) == {"dice", "hd95_mm"}
    for metric in ("dice", "hd95_mm"):
        assert set(scores["mean"][metric]) == COLUMNS
        for column in COLUMNS:
            total = sum(g["cases"] * g[metric][column] for g in scores["groups"].values())
            assert scores["mean"][metric][column] == pytest.approx(total / 12, rel=1e-5)


def test_evaluate_takes_acdc_as_one_group_and_prints_a_table(
    run: Run, tmp_path: Path, config: Path, base: Path, phantom_dir: Path
) -> None:
    first = Path("acdc", "training", "patient001")
    shutil.copytree(phantom_dir / first, tmp_path / first)
    ended = run(
        "evaluate", "--base", base, "--data", tmp_path / "acdc", "--config", config,
        "--json", tmp_path / "scores.json",
    )  # fmt: skip
    assert ended.status == 0, ended.error
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert {name: group["cases"] for name, group in scores["groups"].items()} == {"all": 2}
    assert scores["mean"]["dice"] == scores["groups"]["all"]["dice"]
    row = next(line for line in ended.out.splitlines() if " all " in line)
    assert f"{scores['mean']['dice']['LV']:.3f}" in row


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_evaluate_opens_the_files_of_the_chosen_patients_alone(
    run: Run, tmp_path: Path, config: Path, base: Path, split: str
) -> None:
    folder = write_mnms2_hearts(tmp_path / "d", {"GE": 5, "Siemens": 4}, slices=2)
    cases = read_cases(folder)
    wanted = set()
    for vendor in ("GE", "Siemens"):
        own = [case for case in cases if case.info["VENDOR"] == vendor]
        wanted |= {case.patient for case in split_cases(own, 0)[split]}  # type: ignore[index]
    for case in cases:
        if case.patient not in wanted:
            case.image.write_bytes(b"closed")
    words = ("--base", base, "--data", folder, "--config", config)
    scores = evaluated(run, tmp_path / "scores.json", *words, "--cases", split)
    assert sum(group["cases"] for group in scores["groups"].values()) == 2 * len(wanted)
    assert set(scores["groups"]) == {"GE", "Siemens"}
    refused(run("evaluate", *words, "--cases", "all"), "cannot be read as NIfTI")


def test_evaluate_groups_by_the_column_that_is_asked_for(
    run: Run, tmp_path: Path, config: Path, base: Path, hearts: Path
) -> None:
    rows = [{"SUBJECT_CODE": str(n), "VENDOR": "GE", "CENTRE": str(n // 3)} for n in (1, 2, 3)]
    write_table(hearts, rows)
    words = ("--base", base, "--data", hearts, "--config", config, "--split-by", "CENTRE")
    scores = evaluated(run, tmp_path / "scores.json", *words)
    sizes = {name: group["cases"] for name, group in scores["groups"].items()}
    assert sizes == {"centre-0": 4, "centre-1": 2}


def test_a_structure_that_no_case_has_is_null(
    run: Run, tmp_path: Path, config: Path, base: Path, hearts: Path
) -> None:
    for label in hearts.rglob("*_gt.nii.gz"):
        edit(label, lambda data: np.where(data == 3, 0, data))
    words = ("--base", base, "--data", hearts, "--config", config)
    scores = evaluated(run, tmp_path / "scores.json", *words)
    assert scores["mean"]["dice"]["RV"] is None
    assert scores["groups"]["GE"]["hd95_mm"]["RV"] is None
    assert scores["mean"]["dice"]["mean"] is not None


def test_evaluate_uses_the_adapter(
    run: Run, tmp_path: Path, config: Path, base: Path, hearts: Path, make_adapter: MakeAdapter
) -> None:
    save_adapter(make_adapter(scale=0.0), tmp_path / "zero")
    save_adapter(make_adapter(scale=2.0), tmp_path / "strong")
    words = ("--base", base, "--data", hearts, "--config", config)
    plain = evaluated(run, tmp_path / "scores.json", *words)
    zero = evaluated(run, tmp_path / "scores.json", *words, "--adapter", tmp_path / "zero")
    strong = evaluated(run, tmp_path / "scores.json", *words, "--adapter", tmp_path / "strong")
    assert zero == plain
    assert strong != plain


# --- mistakes


def refused(ended: Ended, *words: str) -> None:
    """Check that a command ended with status 2 and one line that has all of the words."""
    assert ended.status == 2, ended
    assert "Traceback" not in ended.out + ended.error
    lines = ended.error.strip().splitlines()
    assert len(lines) == 1, ended.error
    assert lines[0].startswith("Error: ")
    assert [word for word in words if word not in lines[0]] == [], lines[0]


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    nifti = nib.load(path)
    assert isinstance(nifti, nib.Nifti1Image)
    write_nifti(path, change(np.asarray(nifti.dataobj)), nifti.affine)


def one_value(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(data: np.ndarray) -> np.ndarray:
        data[3, 3, 1] = value
        return data

    return change


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


IMAGE, LABEL = "002_SA_ES.nii.gz", "002_SA_ES_gt.nii.gz"
Spoil = Callable[[Path], object]
BAD_FILES: dict[str, tuple[str, Spoil, tuple[str, ...]]] = {
    "no label": (LABEL, Path.unlink, ("missing", "patient 002")),
    "no image": (IMAGE, Path.unlink, ("missing", "patient 002")),
    "shapes differ": (
        LABEL, lambda p: edit(p, lambda data: data[:-1]), ("(47, 48, 2)", "(48, 48, 2)"),
    ),
    "label value 7": (LABEL, lambda p: edit(p, one_value(7)), ("value 7", "[0, 1, 2, 3]")),
    "truncated": (IMAGE, halve, ("cannot be read as NIfTI",)),
    "NaN": (IMAGE, lambda p: edit(p, one_value(np.nan)), ("1 values are NaN or infinite",)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "spoil", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_named(
    run: Run,
    tmp_path: Path,
    config: Path,
    base: Path,
    hearts: Path,
    name: str,
    spoil: Spoil,
    words: tuple[str, ...],
) -> None:
    path = hearts / "dataset" / "002" / name
    spoil(path)
    common = ("--data", hearts, "--config", config)
    refused(run("evaluate", "--base", base, *common), str(path), *words)
    refused(run("pretrain", "--out", tmp_path / "out", *common), str(path), *words)
    assert not (tmp_path / "out").exists()


def test_a_missing_data_folder_is_named(run: Run, tmp_path: Path, config: Path, base: Path) -> None:
    words = ("--data", tmp_path / "nowhere", "--config", config)
    message = f"{tmp_path / 'nowhere'}: no such data folder"
    refused(run("evaluate", "--base", base, *words), message)
    refused(run("pretrain", "--out", tmp_path / "out", *words), message)


def test_a_column_that_the_table_does_not_have_is_named_with_those_it_has(
    run: Run, config: Path, base: Path, hearts: Path
) -> None:
    words = ("--base", base, "--data", hearts, "--config", config, "--split-by", "HOSPITAL")
    refused(run("evaluate", *words), str(hearts), "'HOSPITAL'", "SUBJECT_CODE, VENDOR")


def test_a_site_without_enough_patients_for_the_split_is_named(
    run: Run, tmp_path: Path, config: Path, base: Path
) -> None:
    folder = write_mnms2_hearts(tmp_path / "d", {"GE": 2, "Siemens": 3}, slices=2)
    words = ("--data", folder, "--config", config)
    ended = run("evaluate", "--base", base, *words, "--cases", "test")
    refused(ended, "site GE", "2 patient(s)", "expected at least 3")


def test_a_folder_too_small_to_pretrain_on_is_named(run: Run, tmp_path: Path, config: Path) -> None:
    folder = write_mnms2_hearts(tmp_path / "d", {"GE": 2}, slices=2)
    ended = run("pretrain", "--data", folder, "--out", tmp_path / "out", "--config", config)
    refused(ended, str(folder), "2 patient(s)", "expected at least 3")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("lambda_0 = 0.2", ("unknown key 'lambda_0'", "lambda-0")),
        ("[train]\nrank = 8", ("unknown key 'train'",)),
        ("rank = 0", ("rank", "found 0", "at least 1")),
        ('rank = "eight"', ("rank", "'eight'", "int")),
        ("image-size = 100", ("image-size", "100", "multiple of 16")),
        ("rank == 8", ("not TOML",)),
    ],
)
def test_a_wrong_configuration_is_named_with_its_key(
    run: Run, tmp_path: Path, base: Path, hearts: Path, content: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(content)
    common = ("--data", hearts, "--config", path)
    refused(run("evaluate", "--base", base, *common), str(path), *words)
    refused(run("pretrain", "--out", tmp_path / "out", *common), str(path), *words)


def test_a_missing_configuration_is_named(run: Run, tmp_path: Path, hearts: Path) -> None:
    path = tmp_path / "nowhere.toml"
    words = ("--data", hearts, "--out", tmp_path / "out", "--config", path)
    refused(run("pretrain", *words), str(path), "cannot read the file")


def test_a_base_that_does_not_fit_the_model_is_named(
    run: Run, tmp_path: Path, base: Path, hearts: Path
) -> None:
    config = write_config(tmp_path / "c.toml", {"features": "8,8,8,8,8,8"})
    ended = run("evaluate", "--base", base, "--data", hearts, "--config", config)
    refused(ended, str(base), "does not fit features (8, 8, 8, 8, 8, 8)", "expected (8,")


def test_a_base_of_another_fingerprint_is_named(
    run: Run, tmp_path: Path, base: Path, hearts: Path
) -> None:
    config = write_config(tmp_path / "c.toml", {"base-sha256": "ab" * 32})
    ended = run("evaluate", "--base", base, "--data", hearts, "--config", config)
    refused(ended, str(base), file_sha256(base), "expected " + "ab" * 32)


def test_a_base_that_is_none_is_named(run: Run, tmp_path: Path, config: Path, hearts: Path) -> None:
    wrong = tmp_path / "base"
    wrong.write_text("no weights")
    words = ("--data", hearts, "--config", config)
    refused(run("evaluate", "--base", wrong, *words), str(wrong), "not a safetensors file")
    gone = tmp_path / "gone"
    refused(run("evaluate", "--base", gone, *words), str(gone), "cannot read the file")


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(
    run: Run, tmp_path: Path, config: Path, base: Path, hearts: Path
) -> None:
    shapes = lora.layer_shapes(build_unet(SMALL))
    adapter = lora.initial_adapter(shapes, 2, 1.0, 0)
    words = ("--base", base, "--data", hearts, "--config", config)
    save_adapter(adapter, tmp_path / "foreign", {"base-sha256": "ab" * 32})
    ended = run("evaluate", *words, "--adapter", tmp_path / "foreign")
    refused(ended, str(tmp_path / "foreign"), "ab" * 32, str(base), file_sha256(base))
    save_adapter(adapter, tmp_path / "own", {"base-sha256": file_sha256(base)})
    assert run("evaluate", *words, "--adapter", tmp_path / "own").status == 0


def test_an_adapter_for_another_model_is_named(
    run: Run, tmp_path: Path, config: Path, base: Path, hearts: Path
) -> None:
    shapes = lora.layer_shapes(build_unet((8, 8, 8, 8, 8, 8)))
    save_adapter(lora.initial_adapter(shapes, 2, 1.0, 0), tmp_path / "adapter")
    words = ("--base", base, "--data", hearts, "--config", config)
    ended = run("evaluate", *words, "--adapter", tmp_path / "adapter")
    refused(ended, f"{tmp_path / 'adapter'}: does not fit", "expected (")


def test_in_a_terminal_of_its_own_a_mistake_is_one_line_too(tmp_path: Path, base: Path) -> None:
    """No library adds a warning or a log line to the error."""
    case = write_case(tmp_path / "d", slices=2)
    write_case(tmp_path / "d", slices=2, frame="ES")
    write_table(tmp_path / "d", [{"SUBJECT_CODE": "1", "VENDOR": "GE"}])
    halve(case.image)
    config = write_config(tmp_path / "c.toml", {"cache-dir": str(tmp_path / "cache")})
    command = shutil.which("rate-my-lora", path=str(Path(sys.executable).parent))
    assert command
    words = ["evaluate", "--base", str(base), "--data", str(tmp_path / "d")]
    words += ["--config", str(config)]
    done = subprocess.run([command, *words], capture_output=True, text=True, check=False)
    refused(Ended(done.returncode, done.stdout, done.stderr), str(case.image), "cannot be read")
