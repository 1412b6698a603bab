"""``rate-my-lora join``: a hospital's part in a federation, from one file of settings."""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from client_app.connection import read_site
from client_app.site_check import check_places, check_site
from client_app.supernode import take_part


def join(
    file: Annotated[Path, typer.Argument(help="TOML file of the site.", metavar="SITE.toml")],
    check: Annotated[
        bool, typer.Option("--check", help="Try all that the site needs, then leave.")
    ] = False,
) -> None:
    """Take part in a federation as a site until told to stop.

    Starts a SuperNode and answers its messages with this installed version of the app; code that
    comes with a run is not executed. A SuperNode that ends by itself is started again.
    """
    connection, settings = read_site(file)
    if check:
        check_site(settings, connection.health, file)
        return
    check_places(settings, file)
    signal.signal(signal.SIGTERM, _leave)
    try:
        take_part(connection, connection.command(settings))
    except KeyboardInterrupt:
        return


def _leave(number: int, _: FrameType | None) -> None:
    """Let SIGTERM end the process by an exception, so that the SuperNode ends with it."""
    sys.exit(0)
