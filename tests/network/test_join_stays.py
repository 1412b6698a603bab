"""``rate-my-lora join`` goes on when its SuperNode ends or gives a message up."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import httpx
import pytest

from benchmarks.processes import free_ports
from client_app import supernode
from client_app.connection import Connection
from client_app.runner import beat
from client_app.supernode import _stay
from common.errors import UserError
from common.flower_private import RuntimeHttpClient

COUNT = "import sys; open(sys.argv[1], 'a').write('x')"


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Connection:
    """Return a connection, without pauses between SuperNodes."""
    monkeypatch.setattr(supernode, "PAUSE_S", 0.0)
    monkeypatch.setattr(supernode, "TRIES", 3)
    (port,) = free_ports(1)
    return Connection(superlink="fl.example.org:9092", local_port=port)


def test_a_supernode_that_ends_is_started_again(connection: Connection, tmp_path: Path) -> None:
    starts = tmp_path / "starts"
    with pytest.raises(UserError, match=r"for fl\.example\.org:9092 ended; its last lines say why"):
        _stay(connection, [sys.executable, "-c", COUNT, str(starts)], str(tmp_path))
    assert starts.read_text() == "xxx"


def test_one_that_lived_for_long_is_always_started_again(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supernode, "QUICK_S", 0.0)
    starts = tmp_path / "starts"

    def sleep(_: float) -> None:
        if len(starts.read_text()) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(supernode, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=sleep))
    with pytest.raises(KeyboardInterrupt):
        _stay(connection, [sys.executable, "-c", COUNT, str(starts)], str(tmp_path))
    assert starts.read_text() == "xxxxx"


def test_what_ends_supernodes_quickly_does_not_end_a_site_that_was_connected(
    connection: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, clock, pauses = tmp_path / "starts", iter((0.0, 99.0)), []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr(supernode, "PAUSE_S", 1.0)
    time = SimpleNamespace(monotonic=lambda: next(clock, 99.0), sleep=sleep)
    monkeypatch.setattr(supernode, "time", time)
    with pytest.raises(KeyboardInterrupt):
        _stay(connection, [sys.executable, "-c", COUNT, str(starts)], str(tmp_path))
    assert pauses == [1, 1, 1, 1, 1, 1, 2, 2]


def client(beat: Callable[[], bool]) -> RuntimeHttpClient:
    """Return a client of a SuperNode that answers heartbeats by ``beat``."""

    def answer(_: object) -> SimpleNamespace:
        return SimpleNamespace(success=beat())

    return cast("RuntimeHttpClient", SimpleNamespace(SendTaskHeartbeat=answer))


def unauthorised() -> bool:
    """Answer as a SuperNode that has forgotten the task's token."""
    request = httpx.Request("POST", "http://127.0.0.1:1")
    raise httpx.HTTPStatusError("", request=request, response=httpx.Response(401, request=request))


def unreachable() -> bool:
    raise httpx.ConnectError("")


@pytest.mark.parametrize("forgotten", [lambda: False, unauthorised], ids=["no", "unauthorised"])
def test_a_message_that_was_given_up_does_not_end_the_site(
    caplog: pytest.LogCaptureFixture, forgotten: Callable[[], bool]
) -> None:
    """Flower's own heartbeat raises SIGINT, which would end ``join`` as if by Ctrl-C."""
    assert beat(client(forgotten))
    assert "no longer waits" in caplog.text


def test_a_heartbeat_that_did_not_arrive_is_sent_again() -> None:
    assert not beat(client(unreachable))
