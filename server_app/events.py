"""TensorBoard event files of a run, written if ``tensorboard = true``."""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

from common.errors import UserError
from server_app.history import Line, total

PER_SITE = {
    "validation": "validation Dice",
    "local": "local Dice",
    "penalty": "penalty",
    "loss": "loss",
}
"""Chart for each key of a site's entry in the history."""


class EventWriter:
    """Writes one point for each round, site and chart.

    Parameters
    ----------
    folder
        Folder of the event files.
    first_round
        The next round to write; TensorBoard hides points that an earlier attempt wrote from it on.

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
        self._open = partial(SummaryWriter, str(folder), purge_step=first_round)

    @cached_property
    def writer(self) -> Any:
        """TensorBoard's writer, which makes its file when there is a round to write."""
        return self._open()

    def add_round(self, line: Line) -> None:
        """Write the points of a round, from its line of ``history.jsonl``."""
        step = line["round"]
        for site, entry in line["sites"].items():
            for key, chart in PER_SITE.items():
                if entry.get(key) is not None:
                    self.writer.add_scalar(f"{chart}/{site}", entry[key], step)
        for key in ("bytes_up", "bytes_down"):
            self.writer.add_scalar(f"payload/{key}", total(line, key), step)
        self.writer.add_scalar("lambda", line["lambda"], step)
        self.writer.add_scalar("refused", len(line["refused"]), step)
        self.writer.flush()
