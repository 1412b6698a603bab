"""Answers a SuperNode's messages with the installed version of this app, in one process.

By default Flower runs the code that the coordinator sends with every run, in a new process for each
message. A hospital reviews and installs one version instead. With ``flower-supernode --isolation
process`` the runner therefore asks the SuperNode for work on the loopback interface and answers
with this package; it does not open the code that came with the run, and the run must be of the
installed version. As the process stays, it loads the libraries once and not for every message.
"""

import re
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from logging import ERROR, INFO, WARNING

import httpx
from flwr.common import log

from client_app.app import answer
from client_app.site import open_site
from common.flower_private import (
    HeartbeatSender,
    Lock,
    RuntimeHttpClient,
    acquire_task,
    is_waited_for,
    pull_task,
    push_answer,
    runtime_client,
)
from common.text import clean

PACKAGE = "rate-my-lora"
POLL_S = 0.5
VERSION = re.compile(r"[0-9A-Za-z.+]{1,40}")


class Runner:
    """Answers a SuperNode's messages, one after the other.

    Parameters
    ----------
    address
        ``host:port`` of the SuperNode's Runtime API.
    lock
        How the SuperNode and the app know each other; None for a port without TLS.
    """

    def __init__(self, address: str, lock: Lock | None = None) -> None:
        self.address, self.lock = address, lock
        self.client = runtime_client(address, "", lock)
        self.run_id: int | None = None

    def serve(self, alive: Callable[[], bool]) -> None:
        """Answer messages until ``alive`` says that the SuperNode has ended."""
        while alive():
            try:
                if not self.step():
                    time.sleep(POLL_S)
            except httpx.HTTPError as error:  # the SuperNode starts, ends or gave the message up
                log(ERROR, "SuperNode: %s", clean(error))
                time.sleep(POLL_S)
            except Exception as error:  # nothing that arrives ends the site
                log(ERROR, "unexpected error", exc_info=error)
                time.sleep(POLL_S)
        self.client.close()

    def step(self) -> bool:
        """Answer one message; return False if there is none."""
        token = acquire_task(self.client)
        if not token:
            return False
        client = runtime_client(self.address, token, self.lock)
        heartbeat = HeartbeatSender(lambda: beat(client))
        heartbeat.start()
        try:
            message, context, run = pull_task(client)
            if run.run_id != self.run_id:  # the site's data may have changed since the last run
                open_site.cache_clear()
                self.run_id = run.run_id
            wrong = version_error(run.fab_id, run.fab_version)
            if wrong:
                log(ERROR, "%s", wrong)
            push_answer(client, answer(message, context, wrong), context)
        finally:
            heartbeat.stop()
            client.close()
        return True


def beat(client: RuntimeHttpClient) -> bool:
    """Tell the SuperNode that the app works on the message; return False to try again soon.

    After a machine has slept for a minute, its SuperNode has given the message up. Flower's own
    heartbeat then ends the process; this one lets it go on to the next message.
    """
    try:
        waits = is_waited_for(client)
    except httpx.HTTPStatusError:
        waits = False
    except httpx.HTTPError:
        return False
    if not waits:
        log(WARNING, "the SuperNode no longer waits for this answer")
    return True


def version_error(app_id: str, version: str) -> str:
    """Return an error text if a run is of another app or version than is installed, else ""."""
    installed = metadata.version(PACKAGE)
    same = app_id.rpartition("/")[2] == PACKAGE
    if same and version == installed:
        return ""
    known = same and VERSION.fullmatch(version)
    found = f"version {version}" if known else "another app"
    return f"the run is of {found}, this site has version {installed}"


def wait_until_ready(address: str, alive: Callable[[], bool]) -> bool:
    """Wait until something listens at an address; return False if ``alive`` turns false first."""
    host, _, port = address.rpartition(":")
    while alive():
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
            log(INFO, "SuperNode is ready")
            return True
        time.sleep(POLL_S)
    return False
