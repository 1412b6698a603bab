"""Ray under a simulation: settings for a busy machine, and an error at once when Ray ends.

Ray's public interface has neither, so this module uses private names of Ray.
"""

import os
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from common.errors import UserError

ENVIRONMENT = {
    # With Ray's own niceness of 15 the sites' processes get no time beside other work
    "RAY_worker_niceness": "0",
    # The agent that makes the sites' environments may take this long to start, not only 30 s
    "RAY_agent_register_timeout_ms": "600000",
    # Ray listens on the loopback interface alone, as it does on other systems than Linux
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Silences warnings that do not concern a run on one machine
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Under "uv run" Ray would make an environment of its own
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
LISTEN = "dashboard_agent_listen_port"
AGENTS = (LISTEN, "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")
"""Ports of the raylet's agents. The raylet ends when an agent does not report a port of its own
choice within 15 s, which no setting changes; it does not wait for a port that it is given."""
LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108
LOOK_S = 1.0
LAST_WORD_S = 10.0
"""How long a run whose Ray has ended may take to write its status and end."""


def prepare_ray() -> None:
    """Give Ray its settings and ports in this process; variables that the user has set stay."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray._private import parameter, services  # noqa: PLC0415  (reads the environment)

    chosen: Any = parameter.RayParams
    started: Any = services.start_ray_process
    ports = dict(zip(AGENTS, free_ports(len(AGENTS)), strict=True))

    def with_ports(*args: Any, **keys: Any) -> Any:
        return chosen(*args, **{**keys, **ports})

    def start(command: list[str], kind: str, *args: Any, **keys: Any) -> Any:
        if kind == "raylet":  # Ray passes the other three ports on to it
            command = [*command, f"--{LISTEN}={ports[LISTEN]}"]
        return started(command, kind, *args, **keys)

    parameter.RayParams = with_ports  # type: ignore[assignment,misc]
    services.start_ray_process = start  # type: ignore[assignment]


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback interface that nothing listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class RayWatch:
    """Ends a run whose Ray has ended, which would otherwise wait for its sites."""

    def __init__(self) -> None:
        self.failure = ""
        """What has ended; empty while Ray works."""
        self._server: threading.Thread | None = None
        self._last_word = threading.Lock()

    def check(self) -> None:
        """Raise UserError if Ray has ended; the ServerApp's thread calls this while it waits."""
        self._server = threading.current_thread()
        self._look()
        if self.failure:
            raise UserError(self.failure)

    def watch(self) -> None:
        """Look at Ray's processes while the ServerApp runs; end this process when one has ended."""
        while not self.failure:
            time.sleep(LOOK_S)
            if not self.failure and self._server is not None and not self._server.is_alive():
                return  # the run is over, and Flower ends Ray
            self._look()
        for thread in (self._server, threading.main_thread()):
            if thread is not None:
                thread.join(LAST_WORD_S)
        self.leave()

    def leave(self) -> None:
        """Print what has ended, once, and end this process; shutting a dead Ray down takes long."""
        with self._last_word:
            sys.stdout.flush()
            print(f"Error: {self.failure}", file=sys.stderr, flush=True)
            os._exit(2)

    def _look(self) -> None:
        if not self.failure and (name := ended_process()):
            self.failure = f"Ray ended: its {name} is gone; its logs are in {LOGS}"


def ended_process() -> str:
    """Return the name of a process that Ray needs and that has ended; empty if there is none."""
    worker = sys.modules.get("ray._private.worker")
    node = getattr(worker, "_global_node", None)
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return next(iter(dead & {"raylet", "gcs_server"}), "")
