"""The status file follows a run to its end, also if the run fails or is killed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from server_app.status import Status, StatusFile, read_status


def status_of(path: Path) -> Status:
    status = read_status(path)
    assert status is not None
    return status


def test_the_file_follows_the_run(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    file = StatusFile(path, rounds=20)
    begun = status_of(path)
    assert (begun.state, begun.rounds, begun.round) == ("running", 20, 0)
    file.phase(3, "train")
    training = status_of(path)
    assert (training.state, training.round, training.phase) == ("running", 3, "train")
    assert training.started == begun.started <= training.since
    file.finish()
    over = status_of(path)
    assert (over.state, over.round) == ("finished", 3)


def test_who_has_not_approved_the_run_is_in_the_file(tmp_path: Path) -> None:
    file = StatusFile(tmp_path / "status.json", rounds=20, run="a1")
    since = status_of(file.path).since
    file.wait(["GE", "Philips"])
    status = status_of(file.path)
    assert (status.run, status.waiting, status.since) == ("a1", ("GE", "Philips"), since)
    file.wait([])
    assert status_of(file.path).waiting == ()


def test_a_failure_says_why(tmp_path: Path) -> None:
    file = StatusFile(tmp_path / "status.json", rounds=2)
    file.fail(ValueError("too few sites"))
    status = status_of(file.path)
    assert (status.state, status.error) == ("failed", "too few sites")


def test_a_run_that_somebody_stopped_says_so(tmp_path: Path) -> None:
    file = StatusFile(tmp_path / "status.json", rounds=2)
    file.phase(1, "train")
    file.stop()
    status = status_of(file.path)
    assert (status.state, status.round, status.error) == ("stopped", 1, "")


def test_a_killed_run_is_told_from_a_live_one(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    StatusFile(path, rounds=2)
    alive = status_of(path)
    assert alive.pid == os.getpid()
    assert not alive.killed()
    code = (
        "import os, sys; from pathlib import Path; from server_app.status import StatusFile;"
        "StatusFile(Path(sys.argv[1]), rounds=2); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    dead = status_of(path)
    assert dead.host == socket.gethostname()
    assert dead.killed()
    path.write_text(path.read_text().replace(f'"{dead.host}"', '"elsewhere"'))
    far = status_of(path)
    assert not far.killed()


def test_a_killed_run_whose_parent_does_not_look_is_known_too(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    code = (
        "import os, sys; from pathlib import Path; from server_app.status import StatusFile;"
        "StatusFile(Path(sys.argv[1]), rounds=2); print(flush=True); os._exit(9)"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, and left as it is
        assert status_of(path).killed()


def test_without_a_file_there_is_no_status(tmp_path: Path) -> None:
    assert read_status(tmp_path / "status.json") is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged, not JSON"),
        (b'{"rounds": 8, "sta', "damaged, not JSON"),
        (b"\xff\xfe\x00", "damaged, not JSON"),
        (b"[" * 100_000, "damaged, not JSON"),
        (b"[]", "found a list"),
        (b"null", "found a NoneType"),
        (b'{"state": "running"}', "found no 'rounds'"),
        (b'{"colour": 1}', "unknown key 'colour'"),
        (b'{"rounds": "8"}', "rounds: found '8' (str), expected a int"),
        (b'{"rounds": 8, "since": "noon"}', "since: found 'noon'"),
        (b'{"rounds": 8, "since": NaN}', "since: found nan"),
        (b'{"rounds": 8, "started": 1e999}', "started: found inf"),
        (b'{"rounds": 8, "state": "asleep"}', "state: found 'asleep', expected one of"),
        (b'{"rounds": 8, "pid": 99999999999999999999}', "pid: found 99999999999999999999"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "status.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_status(path)
    assert str(error.value).startswith(f"{path}: ")
    assert words in str(error.value)
