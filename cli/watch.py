"""``rate-my-lora watch``: shows a run as it goes on, from the files that it writes."""

from pathlib import Path
from typing import Annotated

import typer

from common.console import console
from results.watch import follow, look


def watch(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run.")] = Path("runs/latest"),
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show the run once, then end.")] = False,
) -> None:
    """Show a run until it ends; status 1 if it failed."""
    try:
        snapshot = look(run_dir, console) if once else follow(run_dir, console, every)
    except KeyboardInterrupt:
        return
    if snapshot.failed:
        raise typer.Exit(1)
