"""TensorBoard event files of a run, where ``tensorboard = true`` asks for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError

PER_SITE = {
    "validation": "validation Dice",
    "local": "local Dice",
    "penalty": "penalty",
    "loss": "loss",
}
"""Keys of a site's entry in the history, and the charts they go to."""


class EventWriter:
    """Writes a point a round for every site.

    Parameters
    ----------
    folder
        Where the event files go.
    first_round
        Where a resumed run goes on; later points of an earlier attempt are hidden.

    Raises
    ------
    UserError
        TensorBoard is not installed.
    """

    def __init__(self, folder: Path, first_round: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (optional)
        except ImportError:
            raise UserError(
                "tensorboard: found true, but TensorBoard is not installed; "
                "pip install 'rate-my-lora[tensorboard]'"
            ) from None
        self.writer = SummaryWriter(str(folder), purge_step=first_round)

    def add_round(self, line: Mapping[str, Any]) -> None:
        """Write a line of ``history.jsonl``."""
        step = line["round"]
        for site, entry in line["sites"].items():
            for key, chart in PER_SITE.items():
                if entry.get(key) is not None:
                    self.writer.add_scalar(f"{chart}/{site}", entry[key], step)
        for key in ("bytes_up", "bytes_down"):
            total = sum(entry.get(key, 0) for entry in line["sites"].values())
            self.writer.add_scalar(f"payload/{key}", total, step)
        self.writer.add_scalar("lambda", line["lambda"], step)
        self.writer.add_scalar("refused", len(line["refused"]), step)
        self.writer.flush()
