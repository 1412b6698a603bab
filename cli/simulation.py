"""``flower-simulation``: a federation on one machine, on Flower's simulation engine and Ray.

Flower had this command up to 1.26; the options are those.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import run_command
from common.errors import UserError
from common.flower_private import EngineError, parse_config_args, run_simulation

RAY = {
    # Of Ray's processes: 15, its own, leaves them nothing beside other work
    "RAY_worker_niceness": "0",
    # Ray's raylet ends when its agents start more slowly, as on a machine that is busy
    "RAY_agent_register_timeout_ms": "600000",
    # Its ports listen on the loopback interface alone, as Ray has it on other systems than Linux
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # It warns of what does not concern a run on one machine
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Under "uv run" it would make an environment of its own
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
LOOK_S = 1.0
LOGS = "/tmp/ray/session_latest/logs"  # noqa: S108
LAST_WORD_S = 10.0
"""How long a run whose Ray has ended may take to leave its status and close down."""


class RayWatch:
    """Ends a run whose Ray has ended, which would wait for its sites else.

    Attributes
    ----------
    failure
        What has ended; empty while all is well.
    """

    def __init__(self) -> None:
        self.failure = ""
        self._server: threading.Thread | None = None

    def check(self) -> None:
        """End the ServerApp's thread, which calls this, where there is a failure.

        Raises
        ------
        UserError
            There is one.
        """
        self._server = threading.current_thread()
        if self.failure:
            raise UserError(self.failure)

    def watch(self) -> None:
        """Look at Ray's processes as long as the ServerApp runs; with one of them it ends, too."""
        while not (name := ended_process()):
            time.sleep(LOOK_S)
        if self._server is not None and not self._server.is_alive():
            return  # the run is over, and Flower ends Ray
        self.failure = f"Ray ended: its {name} is gone; its logs are in {LOGS}"
        for thread in (self._server, threading.main_thread()):
            if thread is not None:
                thread.join(LAST_WORD_S)
        sys.stdout.flush()
        print(f"Error: {self.failure}", file=sys.stderr, flush=True)
        os._exit(2)


def ended_process() -> str:
    """Return which of the processes that Ray cannot do without has ended; empty for none."""
    worker = sys.modules.get("ray._private.worker")
    node = getattr(worker, "_global_node", None)
    dead = {kind for kind, _ in node.dead_processes()} if node is not None else set()
    return next(iter(dead & {"raylet", "gcs_server"}), "")


def simulate(
    app: Annotated[Path, typer.Option(help="Folder of the app, with its pyproject.toml.")],
    num_supernodes: Annotated[int, typer.Option(min=1, help="Number of simulated sites.")],
    run_config: Annotated[
        str, typer.Option(help="Configuration over the app's own: key=value pairs or a TOML file.")
    ] = "",
    backend: Annotated[str, typer.Option(help="What runs the sites.")] = "ray",
    backend_config: Annotated[
        str, typer.Option(help="JSON: client_resources of a site, init_args of Ray.")
    ] = "{}",
    enable_tf_gpu_growth: Annotated[
        bool, typer.Option("--enable-tf-gpu-growth", help="For TensorFlow.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
    flwr_dir: Annotated[str, typer.Option(help="Flower's folder, FLWR_HOME.")] = "",
    run_id: Annotated[int | None, typer.Option(help="Number of the run.")] = None,
) -> None:
    """Simulate a federation: one process for the server, some of Ray's for the sites."""
    if not (app / "pyproject.toml").is_file():
        raise UserError(f"--app: found no pyproject.toml in {app}, expected the folder of an app")
    if flwr_dir:
        os.environ["FLWR_HOME"] = flwr_dir
    for name, value in RAY.items():
        os.environ.setdefault(name, value)
    ray = RayWatch()
    threading.Thread(target=ray.watch, daemon=True).start()
    try:
        run_simulation(
            app,
            num_supernodes,
            parse_config_args([run_config] if run_config else None),
            backend,
            _read_json(backend_config),
            tf_gpu_growth=enable_tf_gpu_growth,
            verbose=verbose,
            run_id=run_id,
            check=ray.check,
        )
    except EngineError as error:
        ray.failure = ray.failure or f"the simulation's engine failed: {error}"
        raise UserError(ray.failure) from error


def _read_json(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UserError(f"--backend-config: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"--backend-config: found {text}, expected a JSON object")
    return found


def main() -> None:
    """Run the command; a person's mistake ends in one line and status 2."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(simulate)
    run_command(command)
