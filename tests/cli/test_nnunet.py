"""nnU-Net's raw layout, all the way: check, pretrain, a federation split by site, evaluate."""

import json
from pathlib import Path

import pytest

from cardiac.datasets import Case, read_cases
from cardiac.inspection.inspect import inspect_folder
from cardiac.phantom import write_mnms2
from client_app.site import open_site
from common.config import RunConfig
from server_app.run import run as federate
from tests.cardiac.samples import TINY, check_agrees, write_nnunet
from tests.cli.running import Run
from tests.test_methods import LocalGrid

SITES = {"SIEMENS": "Dijon", "GE MEDICAL SYSTEMS": "Lyon"}
DESCRIPTION = r"""affine-axes = "LPS"
case-pattern = '(?P<site>[A-Z][a-z]+)_(?P<patient>\d+)_(?P<frame>ED|ES)'
"""

pytestmark = pytest.mark.slow


def name_of(case: Case) -> str:
    """Name a case as the folder does, its site first."""
    return f"{SITES[case.info['VENDOR']]}_{case.patient}_{case.frame}"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Return phantoms of two hospitals in nnU-Net's raw layout."""
    write_mnms2(tmp_path / "phantom", patients=dict.fromkeys(SITES, 3))
    cases = read_cases(tmp_path / "phantom" / "mnms2")
    return write_nnunet(cases, tmp_path / "Dataset114_Hearts", name_of, DESCRIPTION)


def test_a_folder_of_nnunet_is_checked_pretrained_on_federated_and_evaluated(
    raw: Path, tmp_path: Path, run: Run
) -> None:
    inspection = inspect_folder(raw)
    assert inspection.findings == []
    assert {name: len(cases) for name, cases in inspection.sites.items()} == {"Dijon": 6, "Lyon": 6}
    check_agrees(inspection)

    base, folder = tmp_path / "base.safetensors", tmp_path / "run"
    keys = {**TINY, "rank": 2, "rounds": 1, "sites": 2, "wait-s": 1, "pretrain-epochs": 1}
    places = {
        "data-dir": raw, "base-model": base, "run-dir": folder, "cache-dir": tmp_path / "cache"
    }  # fmt: skip
    keys |= {key: str(path) for key, path in places.items()}
    file = tmp_path / "run.toml"
    file.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    assert run("check", raw, "--jobs", "1", "--strict").status == 0
    assert run("pretrain", "--data", raw, "--out", base, "--config", file).status == 0

    federate(LocalGrid(2), RunConfig.from_flat(keys))
    open_site.cache_clear()
    summary = json.loads((folder / "summary.json").read_text())
    assert sorted(summary["sites"]) == ["Dijon", "Lyon"]

    adapter, out = folder / "adapter.safetensors", tmp_path / "scores.json"
    words = ("--base", base, "--adapter", adapter, "--data", raw, "--config", file, "--json", out)
    assert run("evaluate", *words).status == 0
    scores = json.loads(out.read_text())["groups"]
    assert {name: group["cases"] for name, group in scores.items()} == {"Dijon": 6, "Lyon": 6}
