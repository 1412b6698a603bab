"""TensorBoard gets the numbers of the history."""

import sys
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from server_app.events import EventWriter


def line(server_round: int, dice: float) -> dict[str, Any]:
    entry = {"validation": dice, "penalty": 0.8, "bytes_up": 10, "bytes_down": 20, "loss": None}
    sites = {"GE": entry, "Siemens": entry}
    return {"round": server_round, "lambda": 0.2, "sites": sites, "refused": []}


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415
        EventAccumulator,
    )

    events = EventAccumulator(str(folder))
    events.Reload()
    assert tag in events.Tags()["scalars"], events.Tags()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_every_round_is_a_point(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, first_round=1)
    writer.add_round(line(1, 0.5))
    writer.add_round(line(2, 0.75))
    assert scalars(tmp_path, "validation Dice/GE") == [(1, 0.5), (2, 0.75)]
    assert scalars(tmp_path, "payload/bytes_down") == [(1, 40), (2, 40)]


def test_a_resumed_run_hides_the_rounds_it_does_again(tmp_path: Path) -> None:
    first = EventWriter(tmp_path, first_round=1)
    for server_round in (1, 2, 3):
        first.add_round(line(server_round, 0.25))
    first.writer.close()
    second = EventWriter(tmp_path, first_round=3)
    second.add_round(line(3, 0.5))
    assert scalars(tmp_path, "validation Dice/GE") == [(1, 0.25), (2, 0.25), (3, 0.5)]


def test_without_tensorboard_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"pip install 'rate-my-lora\[tensorboard\]'"):
        EventWriter(tmp_path, first_round=1)
