"""Runs the site's own, installed app for a SuperNode, in one process.

Flower's default is to run the code that the coordinator sends with every run, in a new process a
message. A hospital reviews and installs a version instead, so with
``flower-supernode --isolation process`` this takes Flower's place: it asks the SuperNode for work
on the loopback interface, answers with the app of this package, and leaves the code that came with
the run unopened. The run must be of the installed version. As the process stays, the libraries
are loaded once and not for every message.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from logging import ERROR, INFO, WARNING

import httpx
from flwr.app import Context, Message
from flwr.common import log

from client_app.app import app
from client_app.guard import App, failure, guard
from client_app.site import open_site
from common import records
from common.flower_private import (
    HeartbeatSender,
    RuntimeHttpClient,
    acquire_task,
    is_waited_for,
    pull_task,
    push_answer,
    runtime_client,
)

PACKAGE = "rate-my-lora"
POLL_S = 0.5


class Runner:
    """Answers a SuperNode's messages, one after the other.

    Parameters
    ----------
    address
        ``host:port`` of the SuperNode's Runtime API.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.client = runtime_client(address)
        self.run_id: int | None = None

    def serve(self, alive: Callable[[], bool]) -> None:
        """Work until ``alive`` says that the SuperNode has ended."""
        while alive():
            try:
                if not self.step():
                    time.sleep(POLL_S)
            except httpx.HTTPError as error:  # it starts, ends or has forgotten the message
                log(ERROR, "SuperNode: %s", error)
                time.sleep(POLL_S)
        self.client.close()

    def step(self) -> bool:
        """Answer one message; False when there is none."""
        token = acquire_task(self.client)
        if not token:
            return False
        client = runtime_client(self.address, token)
        heartbeat = HeartbeatSender(lambda: beat(client))
        heartbeat.start()
        try:
            message, context, run = pull_task(client)
            if run.run_id != self.run_id:  # the site's data may have changed since the last run
                open_site.cache_clear()
                self.run_id = run.run_id
            wrong = version_error(run.fab_id, run.fab_version)
            reply = guard(message, context, _refuse(wrong)) if wrong else app(message, context)
            push_answer(client, reply, context)
        finally:
            heartbeat.stop()
            client.close()
        return True


def beat(client: RuntimeHttpClient) -> bool:
    """Say that the message is being worked on; False to say it once more soon.

    After a machine slept for a minute its SuperNode has given the message up. Flower's own
    heartbeat ends the process then; this one lets it go on to the next message.
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
    """Say what is wrong when a run is of another app or version than the installed one."""
    installed = metadata.version(PACKAGE)
    same = app_id.rpartition("/")[2] == PACKAGE
    if same and version == installed:
        return ""
    found = f"version {version}" if same else "another app"
    return f"the run is of {found}, this site has version {installed}"


def _refuse(reason: str) -> App:
    """Return an app that answers every message with ``reason`` and the site's name."""
    log(ERROR, "%s", reason)

    def refuse(message: Message, context: Context) -> Message:
        content = failure(reason)
        content.config_records[records.CONFIG]["site"] = str(context.node_config.get("site", ""))
        return Message(content, reply_to=message)

    return refuse


def wait_until_ready(address: str, alive: Callable[[], bool]) -> bool:
    """Wait until something listens at an address; False when ``alive`` says there is no hope."""
    host, _, port = address.rpartition(":")
    while alive():
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=1.0):
            log(INFO, "SuperNode is ready")
            return True
        time.sleep(POLL_S)
    return False
