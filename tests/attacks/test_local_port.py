"""Other users of the hospital's machine find the port between the SuperNode and its app closed."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from benchmarks.processes import free_ports
from client_app.connection import LOOPBACK
from client_app.runner import wait_until_ready
from client_app.supernode import _lock, _supernode
from common.certificates import make_authority
from common.flower_environment import SCRIPTS
from common.flower_private import Lock, acquire_task, runtime_client


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Lock]]:
    """Start a SuperNode whose SuperLink is away; return its address and the app's lock."""
    home = tmp_path_factory.mktemp("home")
    lock, words = _lock(home)
    own, away = free_ports(2)
    command = [str(SCRIPTS / "flower-supernode"), "--insecure"]
    command += ["--superlink", f"{LOOPBACK}:{away}", "--isolation", "process"]
    command += ["--host", LOOPBACK, "--port", str(own), *words]
    with _supernode(command, str(home)) as process:
        assert wait_until_ready(f"{LOOPBACK}:{own}", lambda: process.poll() is None)
        yield f"{LOOPBACK}:{own}", lock


def ask_for_work(address: str, lock: Lock | None) -> str:
    with closing(runtime_client(address, "", lock)) as client:
        return acquire_task(client)


def test_work_goes_to_the_app_alone(port: tuple[str, Lock]) -> None:
    """A local user asks the SuperNode for the messages of the hospital's app."""
    address, lock = port
    assert ask_for_work(address, lock) == ""
    guessed = Lock(lock.certificate, bytes(32))
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        ask_for_work(address, guessed)
    with pytest.raises(httpx.HTTPError):
        ask_for_work(address, None)


def test_the_app_asks_no_other_process(port: tuple[str, Lock], tmp_path: Path) -> None:
    """A local user listens in the SuperNode's place, to send the app messages of his own."""
    address, lock = port
    make_authority(tmp_path, [LOOPBACK], 1)
    expected = Lock((tmp_path / "ca.pem").read_bytes(), lock.secret)
    with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
        ask_for_work(address, expected)
