"""The same app over gRPC, real SuperLink and SuperNodes on the loopback interface."""

import subprocess
from pathlib import Path

import pytest
import torch

from benchmarks.federation import processes, start_run, start_superlink, start_supernode
from common.adapter import load_adapter
from tests.test_simulation import ROOT, command, finish, read_history, small_run, start

pytestmark = pytest.mark.slow

SITES = ("GE", "Philips", "Siemens")


def test_over_grpc_the_adapter_is_that_of_the_simulation(site_data: Path, tmp_path: Path) -> None:
    status, output = finish(start(command(site_data, tmp_path / "simulated", rounds=1), site_data))
    assert status == 0, output

    config = small_run(site_data, tmp_path / "real", rounds=1)
    own = {"data-dir": config.pop("data-dir"), "base-model": config["base-model"]}
    app = tmp_path / "app"
    app.mkdir()
    parts = ("common", "strategies", "client_app", "server_app", "cli", "configs")
    files = [ROOT / name for name in (*parts, "pyproject.toml", "README.md", "LICENSE")]
    subprocess.run(["cp", "-r", *map(str, files), str(app)], check=True)
    folder = tmp_path / "processes"
    folder.mkdir()
    with processes(folder) as running:
        fleet, control = start_superlink(running, "127.0.0.1")
        for site in SITES:
            node = {"site": site, **{key: str(value) for key, value in own.items()}}
            start_supernode(running, fleet, node, isolated=False)
        try:
            start_run(running, control, app, config).wait(timeout=280)
        finally:
            log = (folder / "run.log").read_text(encoding="utf-8")
    assert (tmp_path / "real" / "adapter.safetensors").is_file(), log

    expected, _ = load_adapter(tmp_path / "simulated" / "adapter.safetensors")
    found, _ = load_adapter(tmp_path / "real" / "adapter.safetensors")
    for name, value in expected.tensors().items():
        torch.testing.assert_close(found.tensors()[name], value, msg=name)
    for real, simulated in zip(
        read_history(tmp_path / "real"), read_history(tmp_path / "simulated"), strict=True
    ):
        for site in SITES:
            for key in ("rank", "weight", "bytes_up", "bytes_down"):
                assert real["sites"][site].get(key) == simulated["sites"][site].get(key)
