"""What all benchmarks share: the options, the machine, and the two forms of a result."""

import argparse
import json
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from common.files import finite, write_text

PAPER = "32,64,128,256,512,32"
"""Channels of the paper's U-Net."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser that shows the module's docstring and knows ``--json``."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--json", type=Path, metavar="OUT", help="also write the result as JSON")
    return made


def publish(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    result: dict[str, Any],
    path: Path | None,
) -> None:
    """Print a table and, where a path is given, write ``result`` and the machine to it."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=110).print(table)
    if path is not None:
        write_text(path, json.dumps(finite({**result, "machine": machine()}), indent=2) + "\n")


def machine() -> dict[str, str | int | float]:
    """Describe where a figure was measured: without it the figure means little."""
    return {
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "python": platform.python_version(),
        "torch": version("torch"),
        "flwr": version("flwr"),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
