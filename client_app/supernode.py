"""A site's SuperNode as a process, started again when it ends by itself."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from client_app.connection import Connection
from client_app.runner import Runner, wait_until_ready
from common.console import console
from common.errors import UserError
from common.flower_environment import environment

STOP_S = 10.0
PAUSE_S = 10.0
"""Pause before a SuperNode that ended is started again."""
QUICK_S = 60.0
TRIES = 8
"""How many SuperNodes in a row may end within ``QUICK_S``. For a minute after a site was killed, a
SuperLink takes it for connected and refuses it; with the pauses the tries outlast that minute."""


def take_part(connection: Connection, command: Sequence[str]) -> None:
    """Run SuperNodes one after the other and answer their messages, until interrupted.

    Raises
    ------
    UserError
        ``TRIES`` SuperNodes in a row ended within ``QUICK_S``.
    """
    os.environ.update(environment())
    with tempfile.TemporaryDirectory(prefix="rate-my-lora-") as home:
        _stay(connection, command, home)


def _stay(connection: Connection, command: Sequence[str], home: str) -> None:
    """Run SuperNodes one after the other, with ``home`` as their Flower home."""
    quick = 0
    while True:
        started = time.monotonic()
        with _supernode(command, home) as supernode:

            def alive(process: "subprocess.Popen[bytes]" = supernode) -> bool:
                return process.poll() is None

            if wait_until_ready(connection.local_address, alive):
                Runner(connection.local_address).serve(alive)
        ended = f"the SuperNode for {connection.superlink} ended; its last lines say why"
        quick = quick + 1 if time.monotonic() - started < QUICK_S else 0
        if quick == TRIES:
            raise UserError(ended)
        console.print(f"{ended}. Starting it again in {PAUSE_S:g} s")
        time.sleep(PAUSE_S)


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
