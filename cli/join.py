"""``rate-my-lora join``: takes part in a federation as a site, with one file of settings."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from client_app.connection import read_site
from client_app.site_check import check_places, check_site
from client_app.supernode import take_part
from common.files import keep_private


def join(
    file: Annotated[Path, typer.Argument(help="TOML file of the site.", metavar="SITE.toml")],
    check: Annotated[
        bool, typer.Option("--check", help="Try all that the site needs, without joining.")
    ] = False,
) -> None:
    """Take part in a federation as a site until stopped by SIGTERM or Ctrl-C.

    Starts a SuperNode and answers its messages with the installed version of this app; code that
    comes with a run is not executed. A SuperNode that ends by itself is started again.
    """
    keep_private()
    connection, settings = read_site(file)
    if check:
        check_site(settings, connection.health, file)
        return
    check_places(settings, file)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the SuperNode then ends as well
    try:
        take_part(connection, connection.command(settings))
    except KeyboardInterrupt:
        return
