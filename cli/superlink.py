"""``rate-my-lora superlink``: starts the coordinator's SuperLink."""

import os

import typer

from common.flower_environment import SCRIPTS, environment


def superlink(context: typer.Context) -> None:
    """Start Flower's SuperLink in place of this process; the options are those of flower-superlink.

    Unlike flower-superlink it installs nothing for a run and sends Flower no telemetry.
    """
    program = str(SCRIPTS / "flower-superlink")
    os.execve(program, [program, *context.args], environment())  # noqa: S606
