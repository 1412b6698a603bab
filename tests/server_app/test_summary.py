"""The summary's numbers are those of the history and scores; the plot shows something."""

from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from server_app.curves import plot_rounds
from server_app.summary import print_summary, summarise

SCORES = {
    "GE": {
        "cases": 2,
        **{f"base.dice.{s}": 0.5 for s in ("LV", "MYO", "RV", "mean")},
        **{f"base.hd95_mm.{s}": 9.0 for s in ("LV", "MYO", "RV", "mean")},
        **{f"test.dice.{s}": 0.75 for s in ("LV", "MYO", "RV", "mean")},
        **{f"test.hd95_mm.{s}": 6.0 for s in ("LV", "MYO", "RV", "mean")},
    }
}


def history() -> list[dict[str, Any]]:
    entry = {"examples": 5, "validation": 0.6, "penalty": 0.8, "bytes_up": 10, "bytes_down": 20}
    silent = {"bytes_up": 0, "bytes_down": 20}
    return [
        {"round": 0, "lambda": 0, "sites": {"GE": {"validation": 0.5, "bytes_down": 0}}},
        {
            "round": 1,
            "lambda": 0.2,
            "sites": {"GE": entry, "Philips": entry},
            "seconds": {"train": 2.5, "validate": 1.5},
        },
        {"round": 2, "lambda": 0.19, "sites": {"GE": entry, "Philips": silent}},
    ]


def test_summary_has_the_agreed_form() -> None:
    summary = summarise("rate-my-lora", history(), SCORES, weight_bytes=100)
    assert set(summary) == {
        *("method", "rounds", "seconds", "versions", "refused", "sites", "bytes"),
    }
    assert summary["rounds"] == 2
    assert summary["seconds"] == 4.0
    assert {"python", "torch", "flwr"} <= set(summary["versions"])
    assert summary["sites"]["GE"]["base"]["dice"]["mean"] == 0.5
    assert summary["sites"]["GE"]["test"]["dice"]["RV"] == 0.75
    assert summary["sites"]["GE"]["test"]["hd95_mm"]["LV"] == 6.0
    assert summary["sites"]["GE"]["test"]["cases"] == 2


def test_traffic_is_held_against_the_same_trainings_with_full_weights() -> None:
    moved = summarise("m", history(), SCORES, weight_bytes=100)["bytes"]
    assert (moved["up"], moved["down"]) == (30, 80)
    assert moved["full_weights"] == 2 * 100 * 3  # three trainings, down and up
    assert moved["ratio"] == pytest.approx(110 / 600)


def test_the_table_says_gain_and_traffic() -> None:
    console = Console(record=True, width=120)
    print_summary(summarise("m", history(), SCORES, weight_bytes=100), console)
    text = console.export_text()
    assert "+0.250" in text
    assert "less" in text


def test_plot_is_drawn_from_the_first_line_on(tmp_path: Path) -> None:
    path = tmp_path / "rounds.png"
    plot_rounds(history()[:1], path)
    first = matplotlib.image.imread(path)
    plot_rounds(history(), path)
    picture = matplotlib.image.imread(path)
    assert picture.shape == first.shape
    assert not np.array_equal(picture, first)
