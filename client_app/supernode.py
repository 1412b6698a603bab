"""A site's SuperNode as a process, started again when it ends by itself."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from client_app.connection import LOOPBACK, Connection
from client_app.runner import Runner, wait_until_ready
from common.certificates import make_authority, write_private
from common.console import console
from common.errors import UserError
from common.flower_environment import environment
from common.flower_private import Lock

LOCK_DAYS = 3650
STOP_S = 10.0
PAUSE_S = 10.0
"""Pause before a SuperNode that ended is started again."""
QUICK_S = 60.0
TRIES = 8
"""How many SuperNodes in a row may end within ``QUICK_S`` where none has lived for longer. For a
minute after a site was killed, a SuperLink takes it for connected and refuses it; with the pauses
the tries outlast that minute. Where one has lived, the site only waits longer between them."""


def take_part(connection: Connection, command: Sequence[str]) -> None:
    """Run SuperNodes one after the other and answer their messages, until interrupted.

    Raises
    ------
    UserError
        The first ``TRIES`` SuperNodes ended within ``QUICK_S``.
    """
    os.environ.update(environment())
    with tempfile.TemporaryDirectory(prefix="rate-my-lora-") as home:
        _stay(connection, command, home)


def _stay(connection: Connection, command: Sequence[str], home: str) -> None:
    """Run SuperNodes one after the other, with ``home`` as their Flower home."""
    lock, words = _lock(Path(home))
    quick, lived = 0, False
    while True:
        started = time.monotonic()
        with _supernode([*command, *words], home) as supernode:

            def alive(process: "subprocess.Popen[bytes]" = supernode) -> bool:
                return process.poll() is None

            if wait_until_ready(connection.local_address, alive):
                Runner(connection.local_address, lock).serve(alive)
        ended = f"the SuperNode for {connection.superlink} ended; its last lines say why"
        quick = quick + 1 if time.monotonic() - started < QUICK_S else 0
        lived = lived or not quick
        if quick == TRIES and not lived:
            raise UserError(ended)
        pause = PAUSE_S * max(1, quick // TRIES)
        console.print(f"{ended}. Starting it again in {pause:g} s")
        time.sleep(pause)


def _lock(home: Path) -> tuple[Lock, list[str]]:
    """Make a certificate and a secret for the port; return them, and the SuperNode's options.

    ``home`` is readable by this user alone. So the app takes no other process for its SuperNode,
    and the SuperNode gives work to no other process than the app.
    """
    make_authority(home, [LOOPBACK], LOCK_DAYS)
    secret = secrets.token_bytes(32)
    write_private(home / "secret", secret)
    files = {"ssl-certfile": "server.pem", "ssl-keyfile": "server.key", "ssl-ca-certfile": "ca.pem"}
    files["superexec-auth-secret-file"] = "secret"
    words = [word for key, name in files.items() for word in (f"--{key}", str(home / name))]
    return Lock((home / "ca.pem").read_bytes(), secret), words


@contextmanager
def _supernode(command: Sequence[str], home: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a SuperNode that ends with the block, or with this process."""
    variables = {"FLWR_HOME": home, **os.environ}
    process = subprocess.Popen(_bound_to_us(command), env=variables)  # noqa: S603
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _bound_to_us(command: Sequence[str]) -> list[str]:
    """Return a command that ends when this process is killed, if util-linux's setpriv is there."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else [*command]
