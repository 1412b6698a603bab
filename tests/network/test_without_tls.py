"""The way of trying it out: no TLS, no keys, and Flower's own way of running the app at a site.

SuperNodes run the code that comes with the run, in a new process a message.
"""

from pathlib import Path

import pytest
import torch

from benchmarks.federation import LOOPBACK, start_run, start_superlink, start_supernode
from benchmarks.processes import processes
from common.adapter import load_adapter
from tests.network.world import copy_app
from tests.test_simulation import read_history, small_run

pytestmark = [pytest.mark.network, pytest.mark.slow, pytest.mark.timeout(600)]

SITES = ("GE", "Philips", "Siemens")


def test_over_grpc_a_round_is_that_of_the_simulation(
    site_data: Path, simulated: Path, tmp_path: Path
) -> None:
    config = small_run(site_data, tmp_path / "real", rounds=1)
    own = {"data-dir": str(config.pop("data-dir")), "base-model": str(config["base-model"])}
    app = copy_app(tmp_path / "app")
    folder = tmp_path / "processes"
    folder.mkdir()
    with processes(folder) as running:
        fleet, control, _ = start_superlink(running, LOOPBACK)
        for site in SITES:
            start_supernode(running, f"{LOOPBACK}:{fleet}", {"site": site, **own})
        start_run(running, control, app, config).wait(timeout=500)
        log = running.log("run")
    assert (tmp_path / "real" / "adapter.safetensors").is_file(), log

    for site in SITES:
        update = Path("updates", "round-001", f"{site}.safetensors")
        expected, _ = load_adapter(simulated / update)
        found, _ = load_adapter(tmp_path / "real" / update)
        for name, value in expected.tensors().items():
            torch.testing.assert_close(found.tensors()[name], value, msg=f"{site} {name}")
    for real, line in zip(read_history(tmp_path / "real"), read_history(simulated), strict=False):
        for site in SITES:
            for key in ("rank", "weight", "bytes_up", "bytes_down"):
                assert real["sites"][site].get(key) == line["sites"][site].get(key)
