"""The ServerApp: Flower calls it once for every run."""

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from server_app.run import run
from server_app.run_config import resolve_run

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Resolve the configuration and run the federation; Flower passes its errors on."""
    run(grid, resolve_run(context.run_config, grid.run.override_config))
