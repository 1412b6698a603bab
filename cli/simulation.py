"""``flower-simulation``: a federation on one machine, on Flower's simulation engine and Ray.

Flower itself had this command, with the same options, up to 1.26.
"""

import os
import threading
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.options import run_command
from common.errors import UserError
from common.files import parse_json
from common.flower_environment import UNREGISTERED
from common.flower_private import EngineError, parse_config_args, run_simulation
from server_app.ray_engine import RayWatch, prepare_ray


def simulate(
    app: Annotated[Path, typer.Option(help="Folder of the app, with its pyproject.toml.")],
    num_supernodes: Annotated[int, typer.Option(min=1, help="Number of simulated sites.")],
    run_config: Annotated[
        str, typer.Option(help="Keys of the run: key=value pairs, or a TOML file.")
    ] = "",
    backend: Annotated[str, typer.Option(help="What runs the simulated sites.")] = "ray",
    backend_config: Annotated[
        str, typer.Option(help="JSON with client_resources of a site and init_args of Ray.")
    ] = "{}",
    enable_tf_gpu_growth: Annotated[
        bool, typer.Option("--enable-tf-gpu-growth", help="Let TensorFlow's GPU memory grow.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log more.")] = False,
    flwr_dir: Annotated[str, typer.Option(help="Flower's home folder, FLWR_HOME.")] = "",
    run_id: Annotated[int | None, typer.Option(help="Number of the run.")] = None,
) -> None:
    """Simulate a federation on this machine: Ray runs the sites in processes of its own."""
    if not (app / "pyproject.toml").is_file():
        raise UserError(f"--app: found no pyproject.toml in {app}, expected the folder of an app")
    if flwr_dir:
        os.environ["FLWR_HOME"] = flwr_dir
    os.environ[UNREGISTERED] = "1"
    prepare_ray()
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
    except UserError:
        if ray.failure:
            ray.leave()
        raise
    except EngineError as error:
        ray.failure = ray.failure or f"the simulation's engine failed: {error}"
        raise UserError(ray.failure) from error


def _read_json(text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise UserError(f"--backend-config: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"--backend-config: found {text}, expected a JSON object")
    return found


def main() -> None:
    """Run the command."""
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(simulate)
    run_command(command)
