"""``rate-my-lora superlink``: starts the coordinator's SuperLink."""

import os

import typer

from common.flower_environment import SCRIPTS, UNREGISTERED, environment


def superlink(context: typer.Context) -> None:
    """Start Flower's SuperLink in place of this process; the options are those of flower-superlink.

    Unlike flower-superlink it installs nothing for a run and sends Flower no telemetry.
    """
    program = str(SCRIPTS / "flower-superlink")
    variables = environment()
    if not any(word.startswith("--enable-supernode") for word in context.args):
        variables[UNREGISTERED] = "1"
    os.execve(program, [program, *context.args], variables)  # noqa: S606
