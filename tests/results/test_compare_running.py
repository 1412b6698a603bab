"""Runs as processes: failures, steps, and that nothing outlives the comparison."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console

from results.compare import running
from results.compare.folder import JobFolder
from results.compare.plan import BASE, Plan, read_plan
from results.compare.running import JobRunner, Share, last_line, reason
from results.compare.showing import showing

TEXT = 'reference = "a"\n[keys]\nrounds = 2\n[rows.a]\n[rows.b]\nlambda-0 = 0.0\n'
STATUS = '{"rounds": 2, "round": 2, "state": "finished"}'
TRAIN = f"""
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "summary.json").write_text("{{}}")
(folder / "status.json").write_text({STATUS!r})
print("trained")
"""
EVALUATE = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
(folder / "scores.jsonl").write_text("")
(folder / "evaluation.json").write_text('{"adapt_epochs": 1}')
print("evaluated")
"""
FAIL = "import sys; print('boom', flush=True); sys.exit(3)"


class FakeRunner(JobRunner):
    """Starts small programs in the place of Flower and of the evaluation."""

    programs = (TRAIN, EVALUATE)
    broken = ""

    def _simulation(self, folder: JobFolder) -> list[str]:
        program = FAIL if folder.job.row == self.broken else self.programs[0]
        return [sys.executable, "-c", program, str(folder.path)]

    def _evaluation(self, folder: JobFolder, _: list[str]) -> list[str]:
        return [sys.executable, "-c", self.programs[1], str(folder.path)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "POLL_S", 0.02)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    return read_plan(path)


def worked(
    plan: Plan, out: Path, runner: type[FakeRunner], jobs: int = 1
) -> tuple[dict[str, JobFolder], str]:
    """Bring all runs to their end and return their folders, and what was said."""
    folders = [JobFolder(job, out) for job in plan.jobs()]
    console = Console(width=200, force_terminal=False, record=True, quiet=False, stderr=True)
    with showing(console, len(folders), folders, jobs) as shown:
        runner(jobs, 1, Share(2), shown).work(folders)
    return {folder.job.row: folder for folder in folders}, console.export_text()


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_run_is_trained_and_then_evaluated(plan: Plan, tmp_path: Path, jobs: int) -> None:
    folders, said = worked(plan, tmp_path, FakeRunner, jobs)
    assert all(folder.evaluated(1) for folder in folders.values())
    assert folders["a"].log.read_text().split() == ["trained", "evaluated"]
    assert folders[BASE].log.read_text().split() == ["evaluated"]
    for number in (1, 2, 3):
        assert f"run {number} of 3, " in said
    assert said.count(": done in ") == 3


def test_a_failed_run_is_recorded_and_the_others_go_on(plan: Plan, tmp_path: Path) -> None:
    class Broken(FakeRunner):
        broken = "a"

    folders, said = worked(plan, tmp_path, Broken)
    assert folders["b"].evaluated(1)
    assert not folders["a"].evaluated(1)
    assert folders["a"].standing() == "run failed: boom"
    assert "a, seed 0: run failed: boom" in said


def test_a_run_that_ends_well_without_a_result_has_failed(plan: Plan, tmp_path: Path) -> None:
    class Idle(FakeRunner):
        programs = ("print('nothing done')", EVALUATE)

    folders, _ = worked(plan, tmp_path, Idle)
    assert folders["a"].standing() == "run failed: nothing done"
    assert folders[BASE].evaluated(1)


def test_a_failed_evaluation_is_tried_again_without_a_new_run(plan: Plan, tmp_path: Path) -> None:
    class NoScores(FakeRunner):
        programs = (TRAIN, FAIL)

    folders, _ = worked(plan, tmp_path, NoScores)
    assert folders["a"].standing() == "evaluation failed: boom"
    again, _ = worked(plan, tmp_path, FakeRunner)
    assert again["a"].evaluated(1)
    assert again["a"].log.read_text().split() == ["trained", "boom", "evaluated"]


def test_what_the_run_itself_says_of_its_end_is_the_reason(plan: Plan, tmp_path: Path) -> None:
    folder = next(JobFolder(job, tmp_path) for job in plan.jobs() if job.row == "a")
    folder.prepare()
    folder.log.write_text("Traceback\nRuntimeError: Exception in ServerApp thread\n\n")
    assert reason(folder, "run") == "RuntimeError: Exception in ServerApp thread"
    status = {"rounds": 2, "state": "failed", "error": "site A: no such folder"}
    folder.run.status.write_text(json.dumps(status))
    assert reason(folder, "run") == "site A: no such folder"
    assert reason(folder, "evaluation") == "RuntimeError: Exception in ServerApp thread"


def test_the_last_line_is_without_colours_and_control_characters(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"first\n\x1b[91mERROR \x1b[0m: no\x07 \xff\n\x1b[0m\n \n")
    assert last_line(log) == "ERROR : no �"
    assert last_line(tmp_path / "none") == ""


def test_an_interruption_ends_the_group_of_every_process(plan: Plan, tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"

    class Waiting(FakeRunner):
        programs = (TRAIN, f"import os; print(os.getpgid(0), flush=True); {child}")

        def _look(self, active: running.Active) -> None:
            super()._look(active)
            if active.folder.log.read_text().strip():
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        worked(plan, tmp_path, Waiting)
    folder = next(JobFolder(job, tmp_path) for job in plan.jobs())
    group = int(folder.log.read_text())
    wait_until_gone(group)


def test_what_is_on_the_leash_ends_with_its_starter(tmp_path: Path) -> None:
    """The starter is killed without a word, so all it leaves is the closed end of the pipe."""
    waits = "import os, time; print(os.getpgid(0), flush=True); time.sleep(600)"
    leash = [sys.executable, "-m", "results.compare.leash", str(tmp_path / "lock")]
    leash += [sys.executable, "-c", waits]
    starter = (
        "import subprocess, sys; "
        f"subprocess.Popen({leash!r}, stdin=subprocess.PIPE, start_new_session=True).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        group = int(process.stdout.readline())
        assert alive(group)
        process.kill()
        assert process.stdout.read() == b""  # ends when nobody holds the pipe any more
    wait_until_gone(group)


def test_the_leash_returns_the_commands_status(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit(7)"]
    leash = [sys.executable, "-m", "results.compare.leash", str(tmp_path / "lock"), *command]
    with subprocess.Popen(leash, stdin=subprocess.PIPE, start_new_session=True) as process:
        assert process.wait(60) == 7


def test_the_leash_waits_for_the_one_before_it(tmp_path: Path) -> None:
    lock, made = tmp_path / "lock", tmp_path / "made"
    command = [sys.executable, "-c", f"import pathlib; pathlib.Path({str(made)!r}).touch()"]
    leash = [sys.executable, "-m", "results.compare.leash", str(lock), *command]
    with FileLock(lock):
        process = subprocess.Popen(leash, stdin=subprocess.PIPE, start_new_session=True)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        assert not made.exists()
    with process:
        assert process.wait(60) == 0
    assert made.exists()


def wait_until_gone(group: int) -> None:
    deadline = time.monotonic() + 60
    while alive(group):
        assert time.monotonic() < deadline, f"process group {group} is still there"
        time.sleep(0.01)


def alive(group: int) -> bool:
    """Say whether a process of the group still works; dead ones that nobody asked after do not."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(found) == group and state not in "ZX":
            return True
    return False


@pytest.mark.parametrize(("cores", "nodes", "cpus"), [(2, 3, 1), (16, 3, 5), (8, 1, 8), (1, 4, 1)])
def test_all_sites_of_a_run_fit_its_cores_where_they_can(cores: int, nodes: int, cpus: int) -> None:
    config = json.loads(Share(cores).backend(nodes))
    assert config["client_resources"] == {"num_cpus": cpus}
    assert config["init_args"] == {"num_cpus": cores}


@pytest.mark.parametrize("nodes", [1, 3, 7])
def test_all_sites_of_a_run_share_a_gpu(nodes: int) -> None:
    gpus = json.loads(Share(4, gpu=True).backend(nodes))["client_resources"]["num_gpus"]
    assert 0.9 < gpus * nodes <= 1


def test_cores_are_divided_between_runs() -> None:
    cores = len(os.sched_getaffinity(0))
    assert Share.of(1, gpu=False).cores == cores
    assert Share.of(10 * cores, gpu=False).cores == 1
