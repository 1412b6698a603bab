"""The report on a run with images: what it computes, keeps and refuses."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from cardiac.scoring import load_model, score_folder, site_groups
from cli.report import report
from common.adapter import save_adapter
from common.config import RunConfig
from common.errors import UserError
from common.labels import STRUCTURES
from common.model import build_unet, file_sha256, save_base
from common.options import Value
from results.report import patient_scores
from results.report.patients import Patients
from strategies.methods import METHODS
from tests.cardiac.samples import tiny_config, write_mnms2_hearts
from tests.conftest import SMALL, MakeAdapter

SITES = ("GE", "Siemens")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the data of two sites, three patients each, and an untrained base."""
    folder = tmp_path_factory.mktemp("shared")
    write_mnms2_hearts(folder / "hearts", {"GE": 3, "SIEMENS": 3}, slices=2)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_base(build_unet(SMALL), folder / "base.safetensors")
    return folder


def config_of(shared: Path, **keys: Value) -> RunConfig:
    given = {key.replace("_", "-"): value for key, value in keys.items()}
    return tiny_config(
        shared / "cache",
        {
            "data-dir": str(shared / "hearts"),
            "base-model": str(shared / "base.safetensors"),
            "base-sha256": file_sha256(shared / "base.safetensors"),
            **given,
        },
    )


@pytest.fixture
def run_dir(shared: Path, tmp_path: Path, make_adapter: MakeAdapter) -> Path:
    """Return a run of two rounds whose summary holds what the sites reported."""
    folder, config = tmp_path / "run", config_of(shared)
    adapter, base = folder / "adapter.safetensors", shared / "base.safetensors"
    save_adapter(make_adapter(scale=2.0, seed=5), adapter, {"base-sha256": config.base_sha256})
    groups = site_groups(shared / "hearts", None)
    before, after = (
        score_folder(load_model(base, file, config), groups, "test", config, lambda *_: None)
        for file in (None, adapter)
    )
    scores = {
        site: {"base": before["groups"][site], "test": after["groups"][site]} for site in SITES
    }
    write_config(folder, config)
    lines = [
        {"round": t, "lambda": 0.2 * bool(t), "refused": [], "seconds": {},
         "sites": {name: {"validation": 0.1 + 0.1 * t} for name in SITES}}
        for t in range(3)
    ]  # fmt: skip
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "summary.json").write_text(json.dumps({"sites": scores}))
    return folder


def write_config(folder: Path, config: RunConfig) -> None:
    (folder / "config.toml").write_text(tomli_w.dumps(config.to_flat()))


def run(*words: object) -> Result:
    app = typer.Typer()
    app.command()(report)
    return CliRunner().invoke(app, [str(word) for word in words])


def written(*words: object) -> str:
    """Run the command, check that it succeeds, and return the page."""
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    page = Path(result.output.rsplit("report: ", 1)[1].strip())
    return page.read_text(encoding="utf-8")


def refused(*words: object) -> str:
    """Run the command, check that it fails, and return its error."""
    result = run(*words)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def read_patients(folder: Path) -> Patients:
    return Patients.from_json(json.loads((folder / "patients.json").read_text()))


def test_means_over_patients_are_what_the_sites_report(run_dir: Path) -> None:
    html = written(run_dir)
    patients = read_patients(run_dir)
    summary = json.loads((run_dir / "summary.json").read_text())["sites"]
    for site in SITES:
        assert [case.frame for case in patients.of(site)] == ["ED", "ES"]
        for model, key in (("base", "base"), ("result", "test")):
            for metric in ("dice", "hd95_mm"):
                for column in (*STRUCTURES, "mean"):
                    told = summary[site][key][metric][column]
                    found = patients.score(site, model, metric, column)
                    assert found == pytest.approx(told, rel=1e-6), (site, model, metric, column)
    assert (
        patients.score("GE", "base", "dice", "mean")
        != patients.score("GE", "result", "dice", "mean")
    )  # fmt: skip
    assert {dict(split)["test"] for split in patients.splits.values()} == {1}
    assert html.count('<img src="data:image/png;base64,') == 4
    assert "Check the data" not in html


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every evaluation fail."""

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr(patient_scores, "evaluate", fail)


def test_a_second_report_computes_nothing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    first = written(run_dir)
    request.getfixturevalue("no_work")
    assert written(run_dir) == first
    content = json.loads((run_dir / "patients.json").read_text())
    content["key"]["adapter"] = "of another adapter"
    (run_dir / "patients.json").write_text(json.dumps(content))
    result = run(run_dir)
    assert isinstance(result.exception, AssertionError)


def test_a_broken_file_of_kept_scores_is_made_anew(run_dir: Path) -> None:
    (run_dir / "patients.json").write_text('{"key": ')
    assert "<img" in written(run_dir)
    assert len(read_patients(run_dir).cases) == 4


@pytest.mark.usefixtures("no_work")
def test_no_data_leaves_the_images_alone(run_dir: Path, tmp_path: Path) -> None:
    html = written(run_dir, "--no-data", "--out", tmp_path / "page.html")
    assert "asked for with --no-data" in html
    assert not (run_dir / "patients.json").exists()
    assert "--no-data" in refused(run_dir, "--no-data", "--data", tmp_path)


@pytest.mark.usefixtures("no_work")
def test_no_data_names_no_folder_of_the_machine(
    run_dir: Path, shared: Path, tmp_path: Path
) -> None:
    paths = {"data_dir": "/srv/hearts", "cache_dir": "~/anna/cache", "run_dir": "/srv/run"}
    write_config(run_dir, config_of(shared, **paths))
    second = tmp_path / "second" / run_dir.name
    second.mkdir(parents=True)
    for file in ("history.jsonl", "summary.json"):
        (second / file).write_bytes((run_dir / file).read_bytes())
    write_config(second, config_of(shared, **paths | {"data_dir": "/srv/berta"}))
    page = tmp_path / "page.html"
    shown = written(run_dir, second, "--out", page)
    html = written(run_dir, second, "--no-data", "--out", page)
    for word in (str(tmp_path.parent), str(shared), "/srv", "anna", "berta", "second"):
        assert word in shown, word
        assert word not in html, word
    assert "(hidden)" in html
    assert "base.safetensors" in html
    assert "<h2" in html


def write_updates(folder: Path, adapters: Mapping[str, Any], rounds: tuple[int, ...]) -> None:
    for t in rounds:
        for site, adapter in adapters.items():
            save_adapter(adapter, folder / "updates" / f"round-{t:03d}" / f"{site}.safetensors")


def test_own_adapters_are_scored_at_home_and_away(run_dir: Path, make_adapter: MakeAdapter) -> None:
    own = {"GE": make_adapter(scale=2.0, seed=5), "Siemens": make_adapter(rank=2, seed=9)}
    write_updates(run_dir, own, (1, 2))
    (run_dir / "updates" / "round-001" / "GE.safetensors").unlink()  # a round is whole or not used
    html = written(run_dir)
    patients = read_patients(run_dir)
    assert patients.transfer is not None
    assert patients.transfer.server_round == 2
    for site in SITES:  # GE's adapter is the result's
        expected = patients.score(site, "result", "dice", "mean")
        assert patients.transfer.own["GE"][site] == pytest.approx(expected)
        assert patients.transfer.own["Siemens"][site] != pytest.approx(expected)
    ((server_round, inside, across),) = patients.transfer.rounds
    assert server_round == 2
    assert 0 < inside < 1
    assert inside != across
    assert "on each site&#39;s patients" in html


def test_a_run_that_goes_on_is_scored_from_its_checkpoint(run_dir: Path) -> None:
    (run_dir / "adapter.safetensors").rename(run_dir / "checkpoint.safetensors")
    (run_dir / "summary.json").unlink()
    html = written(run_dir)
    assert "not finished" in html
    assert "patients better" in html


@pytest.mark.parametrize("preset", ["local", "fedavg"])
def test_a_run_without_an_adapter_of_all_sites_says_so(
    run_dir: Path, shared: Path, preset: str
) -> None:
    write_config(run_dir, config_of(shared, **METHODS[preset].keys))
    html = written(run_dir)
    assert "the run has no adapter that all sites share" in html
    assert not (run_dir / "patients.json").exists()


def test_a_hospital_sees_its_own_patients_alone(run_dir: Path, tmp_path: Path) -> None:
    hearts = write_mnms2_hearts(tmp_path / "own", {"GE": 3}, slices=2)
    written(run_dir, "--data", hearts)
    patients = read_patients(run_dir)
    assert {case.site for case in patients.cases} == {"GE"}
    other = write_mnms2_hearts(tmp_path / "other", {"Canon": 3}, slices=2)
    message = refused(run_dir, "--data", other)
    assert str(other) in message
    assert "Canon" in message
    assert "GE, Siemens" in message


def test_data_that_are_not_here_are_no_fault_unless_asked_for(
    run_dir: Path, shared: Path, tmp_path: Path
) -> None:
    write_config(run_dir, config_of(shared, data_dir=str(tmp_path / "away")))
    html = written(run_dir)
    assert f"data-dir {tmp_path / 'away'} is not here" in html
    missing = tmp_path / "nowhere"
    assert f"{missing}: no such data folder" in refused(run_dir, "--data", missing)
    assert "<img" in written(run_dir, "--data", shared / "hearts")


def test_scores_that_are_not_the_sites_own_are_shown_only_when_asked_for(
    run_dir: Path, shared: Path
) -> None:
    summary = json.loads((run_dir / "summary.json").read_text())
    summary["sites"]["GE"]["base"]["dice"]["mean"] += 0.1
    (run_dir / "summary.json").write_text(json.dumps(summary))
    html = written(run_dir)
    assert "at GE the mean Dice of the base differs by 0.100" in html
    assert "<img" not in html
    html = written(run_dir, "--data", shared / "hearts")
    assert "Check the data" in html
    assert "<img" in html


def test_nothing_is_made_for_a_demo_that_is_gone(
    run_dir: Path, shared: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    config = config_of(shared, data_dir="", base_model="", cache_dir=str(cache))
    write_config(run_dir, config)
    assert "names no data folder" in written(run_dir)
    assert not cache.exists()
    message = refused(run_dir, "--data", shared / "hearts")
    assert "no scores of single patients" in message


def test_another_base_is_refused(run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    sha256 = save_base(build_unet(SMALL), other)
    message = refused(run_dir, "--base", other)
    assert str(other) in message
    assert sha256 in message
    assert file_sha256(other) not in (run_dir / "config.toml").read_text()


def test_several_runs_make_one_page_in_the_first(run_dir: Path, shared: Path) -> None:
    second = run_dir.with_name("second")
    second.mkdir()
    for name in ("history.jsonl", "summary.json"):
        (second / name).write_bytes((run_dir / name).read_bytes())
    write_config(second, config_of(shared, lambda_0=0.0))
    html = written(run_dir, second)
    assert "Side by side" in html
    assert "the run has no adapter yet" in html
    assert (run_dir / "report.html").is_file()
    assert not (second / "report.html").exists()


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in refused(tmp_path)
    assert not list(tmp_path.iterdir())
