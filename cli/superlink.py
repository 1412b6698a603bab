"""``rate-my-lora superlink``: the coordinator's SuperLink."""

import os
import sys
from pathlib import Path

import typer

from common.flower_environment import environment


def superlink(context: typer.Context) -> None:
    """Become Flower's SuperLink; the options are those of flower-superlink.

    Unlike that, it installs nothing for a run, and does not tell Flower's makers that it runs.
    """
    program = str(Path(sys.executable).with_name("flower-superlink"))
    os.execve(program, [program, *context.args], environment())  # noqa: S606
