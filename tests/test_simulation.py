"""The whole system under ``flower-simulation``: what it leaves, resumes and refuses."""

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from benchmarks.processes import family
from common.adapter import load_adapter
from common.flower_environment import SCRIPTS
from common.options import Value
from server_app.status import read_status
from tests.conftest import SITE_FEATURES

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 3

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def small_run(data: Path, run_dir: Path, **keys: Value) -> dict[str, Value]:
    """Return the configuration of a small run."""
    return {
        "data-dir": str(data / "mnms2"),
        "base-model": str(data / "base.safetensors"),
        "cache-dir": str(data / "cache"),
        "run-dir": str(run_dir),
        "features": ",".join(map(str, SITE_FEATURES)),
        "rank": 4,
        "image-size": 32,
        "spacing-mm": 5.0,
        "rounds": ROUNDS,
        "threads": 1,
        **{key.replace("_", "-"): value for key, value in keys.items()},
    }


def command(data: Path, run_dir: Path, **keys: Value) -> list[str]:
    """Return the command of a small simulation."""
    flat = small_run(data, run_dir, **keys)
    typed = " ".join(f"{key}={json.dumps(value)}" for key, value in flat.items())
    simulate = str(SCRIPTS / "flower-simulation")
    resources = json.dumps({"client_resources": {"num_cpus": 1}})
    return [simulate, "--app", str(ROOT), "--num-supernodes", "3", "--run-config", typed,
            "--backend-config", resources]  # fmt: skip


def start(args: list[str], cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        args,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=600)
    finally:
        stop(process)
    return process.returncode, output


def stop(process: "subprocess.Popen[str]") -> None:
    with process:  # closes its pipe
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def read_history(run_dir: Path) -> list[dict[str, Any]]:
    text = (run_dir / "history.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole_run(site_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an unbroken run."""
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    status, output = finish(start(command(site_data, run_dir), site_data))
    assert status == 0, output
    return run_dir


@pytest.fixture
def broken_run(site_data: Path, tmp_path: Path) -> Path:
    """Return the folder of a run that was killed in its second round or later."""
    run_dir = tmp_path / "broken"
    process = start(command(site_data, run_dir), site_data)
    deadline = time.monotonic() + 200
    history = run_dir / "history.jsonl"
    try:
        while not history.is_file() or history.read_text().count("\n") < 2:
            assert process.poll() is None, finish(process)[1]
            assert time.monotonic() < deadline, "round 1 did not end"
            time.sleep(0.05)
    finally:
        stop(process)
    return run_dir


def test_a_run_leaves_what_it_promises(whole_run: Path) -> None:
    names = {path.name for path in whole_run.iterdir()}
    assert names == {
        "config.toml", "history.jsonl", "checkpoint.safetensors", "adapter.safetensors",
        "summary.json", "rounds.png", "status.json", "updates", ".run.lock",
        "checkpoint-1.safetensors", "checkpoint-2.safetensors",
    }  # fmt: skip
    assert [path.name for path in (whole_run / "updates").iterdir()] == [f"round-{ROUNDS:03d}"]
    status = read_status(whole_run / "status.json")
    assert status is not None
    assert (status.state, status.round) == ("finished", ROUNDS)
    lines = read_history(whole_run)
    assert [line["round"] for line in lines] == list(range(ROUNDS + 1))
    assert lines[1]["lambda"] == pytest.approx(0.2)
    assert {site: entry["rank"] for site, entry in lines[1]["sites"].items()} == {
        "GE": 2, "Philips": 4, "Siemens": 4,
    }  # fmt: skip
    for line in lines[1:]:
        for entry in line["sites"].values():
            assert 0 < entry["validation"] < 1
            assert entry["penalty"] in (1.0, pytest.approx(1 - line["lambda"]))
            assert entry["bytes_down"] == 2 * entry["bytes_up"] > 0
    summary = json.loads((whole_run / "summary.json").read_text())
    assert summary["method"] == "rate-my-lora"
    assert set(summary["sites"]) == {"GE", "Philips", "Siemens"}
    assert summary["bytes"]["ratio"] < 1
    adapter, notes = load_adapter(whole_run / "adapter.safetensors")
    assert adapter.rank == 4
    assert len(notes["base-sha256"]) == 64


def test_a_killed_run_resumes_to_the_same_adapter(
    whole_run: Path, broken_run: Path, site_data: Path
) -> None:
    done = (broken_run / "history.jsonl").read_text().count("\n") - 1
    assert 1 <= done <= ROUNDS
    status, output = finish(start(command(site_data, broken_run, resume=True), site_data))
    assert status == 0, output
    expected, _ = load_adapter(whole_run / "adapter.safetensors")
    resumed, _ = load_adapter(broken_run / "adapter.safetensors")
    for name, value in expected.tensors().items():
        assert torch.equal(value, resumed.tensors()[name]), name
    rounds = [line["round"] for line in read_history(broken_run)]
    assert rounds == list(range(ROUNDS + 1))


def test_a_users_mistake_ends_in_one_line_and_status_2(site_data: Path, tmp_path: Path) -> None:
    status, output = finish(start(command(site_data, tmp_path / "run", rank=0), site_data))
    assert status == 2
    assert "rank: found 0, expected at least 1" in output
    assert "Traceback" not in output


def raylet_of(process: "subprocess.Popen[str]") -> int:
    """Return the process id of the raylet that a simulation has started; 0 before it has."""
    for member in family(process.pid):
        with suppress(OSError):
            program = Path(f"/proc/{member}/cmdline").read_text("utf-8").partition("\0")[0]
            if program.endswith("/raylet"):
                return member
    return 0


def test_a_run_whose_ray_ended_says_so_at_once(site_data: Path, tmp_path: Path) -> None:
    process = start(command(site_data, tmp_path / "run", rounds=50, wait_s=3600), site_data)
    deadline = time.monotonic() + 200
    try:
        while not (tmp_path / "run" / "history.jsonl").is_file():
            assert process.poll() is None, finish(process)[1]
            assert time.monotonic() < deadline, "no raylet"
            time.sleep(0.05)
        os.kill(raylet_of(process), signal.SIGKILL)
    except BaseException:
        stop(process)
        raise
    status, output = finish(process)
    assert status == 2
    assert output.count("Error: Ray ended: its raylet is gone") == 1
    left = read_status(tmp_path / "run" / "status.json")
    assert left is not None
    assert left.state == "failed"
    assert left.error.startswith("Ray ended: its raylet is gone")


SLOW_AGENT = """
import time
from pathlib import Path
if "dashboard/agent.py" in Path("/proc/self/cmdline").read_text():
    time.sleep(20)
"""


def test_an_agent_of_rays_may_start_slowly(
    site_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 15 s the raylet would have ended."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_AGENT, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    words = command(site_data, tmp_path / "run", min_sites=3, data_dir="/nowhere")
    status, output = finish(start(words, site_data))
    assert status == 2
    assert "0 site(s) can take part" in output


def test_a_site_with_a_broken_case_is_left_out_and_named(site_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "base.safetensors").symlink_to(site_data / "base.safetensors")
    subprocess.run(["cp", "-r", str(site_data / "mnms2"), str(data)], check=True)
    csv_lines = (data / "mnms2" / "dataset_information.csv").read_text().splitlines()
    code = next(line.split(",")[0] for line in csv_lines if "GE MEDICAL" in line).zfill(3)
    broken = data / "mnms2" / "dataset" / code / f"{code}_SA_ED.nii.gz"
    image = nib.load(broken)
    values = np.asarray(image.dataobj, dtype=np.float32)
    values[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(values, image.affine), broken)

    run_dir = tmp_path / "run"
    status, output = finish(start(command(data, run_dir, rounds=1), data))
    assert status == 0, output
    assert "Traceback" not in output
    lines = read_history(run_dir)
    assert "1 values are NaN" in lines[0]["refused"][0]["reason"]
    assert set(lines[1]["sites"]) == {"Philips", "Siemens"}
