"""The ServerApp: Flower calls it once for every run."""

import atexit
import os
import sys
from logging import ERROR

from flwr.app import Context
from flwr.common import log
from flwr.server.grid import InMemoryGrid
from flwr.serverapp import Grid, ServerApp

from common.errors import UserError
from server_app.run import run
from server_app.run_config import resolve_run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Resolve the configuration and run the federation."""
    try:
        run(grid, resolve_run(context.run_config, grid.run.override_config))
    except UserError as error:
        log(ERROR, "%s", error)
        if not isinstance(grid, InMemoryGrid):
            raise  # Flower records the message as the run's status
        # A simulation would print a traceback and exit with status 1. SystemExit ends this thread
        # alone, so that the simulation closes down; the status is set when the process exits.
        atexit.register(_exit_with_status_2)
        raise SystemExit(2) from None


def _exit_with_status_2() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(2)
