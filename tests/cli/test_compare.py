"""``rate-my-lora compare``: its models, its arguments, and a whole comparison."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
import typer
from filelock import FileLock
from typer.testing import CliRunner

from cli.compare import compare
from client_app import demo
from client_app.settings import SiteSettings
from client_app.site import Site
from common import lora
from common.adapter import save_adapter
from common.config import RunConfig
from common.errors import UserError
from common.model import build_unet, save_base
from common.options import Value
from results.compare.evaluate_run import (
    LAST_LOCAL,
    MERGED,
    PERSONAL,
    ModelFiles,
    adapt,
    evaluate_run,
    models_of,
    own_model,
)
from results.compare.folder import JobFolder
from results.compare.plan import read_plan
from results.compare.run_plan import provided
from tests.conftest import SITE_FEATURES

ROOT = Path(__file__).resolve().parents[2]


def keys_of(data: Path) -> dict[str, Value]:
    return {
        "data-dir": str(data / "mnms2"),
        "base-model": str(data / "base.safetensors"),
        "cache-dir": str(data / "cache"),
        "features": ",".join(map(str, SITE_FEATURES)),
        "rank": 2,
        "image-size": 32,
        "spacing-mm": 5.0,
        "threads": 1,
        "device": "cpu",
    }


@pytest.fixture
def config(site_data: Path) -> RunConfig:
    return RunConfig.from_flat(keys_of(site_data))


def random_adapter(path: Path, seed: int = 0) -> None:
    shapes = lora.layer_shapes(build_unet(SITE_FEATURES))
    adapter = lora.initial_adapter(shapes, 2, 1.0, seed)
    generator = torch.Generator().manual_seed(seed)
    for factors in adapter.layers.values():
        factors.B.copy_(torch.randn(factors.B.shape, generator=generator) / 4)
    save_adapter(adapter, path)


# --- models of a run


def test_a_runs_models_are_found_by_their_files(tmp_path: Path, config: RunConfig) -> None:
    random_adapter(tmp_path / "adapter.safetensors")
    random_adapter(tmp_path / "personal" / "A%2F1.safetensors")
    for number in ("002", "010"):
        random_adapter(tmp_path / "updates" / f"round-{number}" / "B.safetensors")
    found = models_of(tmp_path, ["A/1", "B"], config)
    assert [(s.model, s.origin) for s in found] == [
        (MERGED, ""), (PERSONAL, "A/1"), (LAST_LOCAL, "B"),
    ]  # fmt: skip
    assert str(found[2].adapter).endswith("round-010/B.safetensors")
    assert own_model(found, "A/1").model == PERSONAL
    assert own_model(found, "B").model == MERGED


def test_full_weights_take_the_place_of_base_and_adapter(tmp_path: Path, config: RunConfig) -> None:
    path = tmp_path / "weights.safetensors"
    network = build_unet(SITE_FEATURES)
    save_base(network, path)
    (found,) = models_of(tmp_path, ["A"], config)
    assert (found.weights, found.adapter) == (path, None)
    loaded = found.load(config)
    for name, value in network.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


def test_a_sites_last_adapter_is_left_out_where_it_is_not_one_of_the_base(
    tmp_path: Path, site_data: Path
) -> None:
    folding = RunConfig.from_flat({**keys_of(site_data), "merge": "fold"})
    random_adapter(tmp_path / "adapter.safetensors")
    random_adapter(tmp_path / "updates" / "round-001" / "A.safetensors")
    assert [s.model for s in models_of(tmp_path, ["A"], folding)] == [MERGED]


def test_a_run_without_a_model_is_refused(tmp_path: Path, config: RunConfig) -> None:
    with pytest.raises(UserError, match=r"found no model of the run, expected adapter.safetens"):
        models_of(tmp_path, ["A"], config)


def test_adaptation_begins_where_the_model_stands(tmp_path: Path, config: RunConfig) -> None:
    random_adapter(tmp_path / "a")
    source = ModelFiles(MERGED, "", Path(config.base_model), tmp_path / "a")
    before, after = source.load(config).eval(), source.load(config)
    site = Site(SiteSettings.from_node({"partition-id": 0, "num-partitions": 3}), config)
    adapt(after, site, rank=3, epochs=0, config=config)
    image = torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(after.eval()(image), before(image), rtol=1e-4, atol=1e-4)
    assert lora.get_adapter(after).rank == 3
    adapt(after, site, rank=1, epochs=1, config=config)
    assert not torch.allclose(after.eval()(image), before(image), rtol=1e-4, atol=1e-4)


def test_every_model_is_scored_at_every_site(tmp_path: Path, site_data: Path) -> None:
    config = RunConfig.from_flat(
        {**keys_of(site_data), "pool": True}
    )  # scored one by one all the same
    (tmp_path / "config.toml").write_text(tomli_w.dumps(config.to_flat()))
    random_adapter(tmp_path / "adapter.safetensors")
    random_adapter(tmp_path / "personal" / "GE.safetensors", seed=1)
    evaluate_run(tmp_path, 3, 1, base=False)
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()
    ]
    models = {(line["model"], line["origin"]) for line in lines}
    sites = ("GE", "Philips", "Siemens")
    assert models == {("merged", ""), ("personal", "GE"), *(("adapted", site) for site in sites)}
    for model in models:
        own = [line for line in lines if (line["model"], line["origin"]) == model]
        assert {line["site"] for line in own} == set(sites)
        assert len({(line["patient"], line["frame"]) for line in own}) == len(own)
        assert {line["frame"] for line in own} == {"ED", "ES"}
    for line in lines:
        wanted = line["model"] == "merged" or (line["model"], line["site"]) == ("personal", "GE")
        assert ("hd95_mm" in line) == wanted
        assert set(line["dice"]) == {"LV", "MYO", "RV"}
    done = json.loads((tmp_path / "evaluation.json").read_text())
    assert (done["adapt_epochs"], done["sites"]) == (1, list(sites))


# --- the command


def app_run(*words: object) -> Any:
    app = typer.Typer()
    app.command()(compare)
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def file(tmp_path: Path, site_data: Path) -> Path:
    """Return a comparison of two rows."""
    rows = {"ours": {"lambda-0": 0.2}, "λ = 0": {"lambda-0": 0.0}}
    content = {"reference": "ours", "keys": {**keys_of(site_data), "rounds": 2}, "rows": rows}
    path = tmp_path / "compare.toml"
    path.write_text(tomli_w.dumps(content))
    return path


def test_a_report_alone_shows_what_is_missing(file: Path, tmp_path: Path) -> None:
    ended = app_run(file, "--out", tmp_path / "out", "--report-only")
    assert ended.exit_code == 1
    assert "missing: λ = 0, seed 0: not begun" in ended.output
    assert "0 of 1 seeds (missing: 0)" in (tmp_path / "out" / "results.md").read_text()
    assert not (tmp_path / "out" / "runs").exists()


def test_only_needs_a_run_of_that_name(file: Path, tmp_path: Path) -> None:
    ended = app_run(file, "--out", tmp_path / "out", "--only", "fedit")
    assert isinstance(ended.exception, UserError)
    assert "--only: found 'fedit'" in str(ended.exception)


def test_two_do_not_work_in_one_folder(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        ended = app_run(file, "--out", tmp_path / "out")
    assert "another compare is at work" in str(ended.exception)


def test_a_phantom_is_made_once_a_setting_where_no_data_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunConfig] = []

    def provide(config: RunConfig, *, need_base: bool) -> demo.Provided:
        assert need_base
        asked.append(config)
        return demo.Provided(Path("/phantom"), Path(f"/base-{config.model.rank}"))

    monkeypatch.setattr(demo, "provide", provide)
    path = tmp_path / "c.toml"
    settings = "[settings.low]\nrank = 2\n[settings.high]\nrank = 4\n"
    path.write_text(f'seeds = [5, 6]\nreference = "a"\n[rows.a]\nbatch-size = 3\n{settings}')
    jobs = provided(read_plan(path))
    assert [(c.seed, c.model.rank, c.train.batch_size) for c in asked] == [(5, 2, 16), (5, 4, 16)]
    assert len(jobs) == 8
    for job in jobs:
        assert job.config.data.data_dir == "/phantom"
        assert job.config.base_model == f"/base-{job.config.model.rank}"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_comparison_that_is_killed_goes_on_to_the_same_table(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    folders = {job.row: JobFolder(job, out) for job in read_plan(file).jobs()}
    start = "import typer; from cli.compare import compare; typer.run(compare)"
    words = [sys.executable, "-c", start, str(file), "--out", str(out)]
    history = folders["ours"].run.history
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 400
        while not history.is_file() or history.read_text().count("\n") < 2:
            assert process.poll() is None, folders["ours"].log.read_text()
            assert time.monotonic() < deadline, "round 1 did not end"
            time.sleep(0.05)
        process.kill()
    base = folders["base"].scores.stat().st_mtime_ns
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run 2 of 3, ours, seed 0" in done.stdout
    assert folders["base"].scores.stat().st_mtime_ns == base  # what was done was not done again
    for row in ("ours", "λ = 0"):
        assert folders[row].evaluated(1)
        rounds = [line["round"] for line in folders[row].run.read_history()]
        assert rounds == [0, 1, 2]
    table = (out / "results.md").read_text()
    assert "| ours | 1 |" in table
    assert "missing" not in table
    assert not folders["ours"].failure.exists()
