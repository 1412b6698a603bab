"""Options, results, memory figures and a copy of the app, for all benchmarks."""

import argparse
import json
import os
import platform
import shutil
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
ROOT = Path(__file__).resolve().parents[1]
APP = ("common", "strategies", "cardiac", "client_app", "server_app", "cli", "configs")
"""Packages that a run of the app needs."""


def copy_app(app: Path, *more: str) -> Path:
    """Copy to the new folder ``app`` what Flower sends of the app, and ``more`` packages."""
    app.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, app / name)
    for name in (*APP, *more):
        shutil.copytree(ROOT / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    return app


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
    """Print a table; write ``result`` and the machine to ``path`` as JSON, if there is one."""
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, width=110).print(table)
    if path is not None:
        write_text(path, json.dumps(finite({**result, "machine": machine()}), indent=2) + "\n")


def machine() -> dict[str, str | int | float]:
    """Describe the machine that a figure was measured on."""
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


def reset_peak() -> int:
    """Reset the peak of this process's resident memory; return the memory now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def peak() -> int:
    """Return the peak of this process's resident memory since :func:`reset_peak`, in bytes."""
    return _memory("VmHWM")


def _memory(key: str) -> int:
    text = Path("/proc/self/status").read_text("utf-8")
    return int(text.partition(f"{key}:")[2].split()[0]) * 1024


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
