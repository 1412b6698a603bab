"""``rate-my-lora pretrain``: trains the base model."""

from pathlib import Path
from typing import Annotated

import typer

from cardiac import pretraining
from cli.options import ConfigFile, DataFolder
from common.console import console
from common.progress import progress
from server_app.run_config import load_config


def pretrain(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Base file to write.")],
    config: ConfigFile = None,
) -> None:
    """Train the base model on one data folder, or go on where this was stopped."""
    settings = load_config(config)
    with progress(console) as report:
        sha256, scores = pretraining.pretrain(data, out, settings, report)
    console.print(f"{out}: SHA-256 {sha256}")
    console.print(f"Dice on {scores.cases} held-out cases: {scores.mean_dice:.4f}")
