"""The summary of a run: each site's test scores, and the traffic compared with full weights."""

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

from rich.console import Console
from rich.table import Table

from common.labels import STRUCTURES
from common.text import NAME_LENGTH, clean, mib
from server_app.history import Line, total

PACKAGES = ("rate-my-lora", "flwr", "torch", "monai", "numpy")


def summarise(
    method: str,
    history: Sequence[Line],
    scores: Mapping[str, Mapping[str, float]],
    weight_bytes: int,
    refused: Sequence[Mapping[str, str]] = (),
) -> dict[str, Any]:
    """Return the content of ``summary.json``.

    Parameters
    ----------
    method
        Name of the method.
    history
        Lines of ``history.jsonl``.
    scores
        What each site reported in the final test: the number of cases, and scores under flat names
        such as ``base.dice.LV``.
    weight_bytes
        Payload of the full weights; see :func:`traffic`.
    refused
        Site, phase and reason of each reply that was left out of the final test.
    """
    return {
        "method": method,
        "rounds": sum(line["round"] > 0 for line in history),
        "seconds": round(sum(sum(line.get("seconds", {}).values()) for line in history), 1),
        "versions": versions(),
        "refused": [dict(refusal) for refusal in refused],
        "sites": {
            site: {
                "base": _group(values, "base"),
                "test": {**_group(values, "test"), "cases": int(values["cases"])},
            }
            for site, values in sorted(scores.items())
        },
        "bytes": traffic(history, weight_bytes),
    }


def traffic(history: Sequence[Line], weight_bytes: int) -> dict[str, Any]:
    """Return the payload of all rounds in bytes, and what full weights would have moved.

    ``full_weights`` is what plain averaging of full weights, ``weight_bytes`` each, would have
    moved with the same trainings: one download and one upload for each, and no validation of the
    merge. ``ratio`` is the run's traffic over it.
    """
    rounds = [line for line in history if line["round"] > 0]
    up, down = (sum(total(line, key) for line in rounds) for key in ("bytes_up", "bytes_down"))
    trainings = sum("examples" in entry for line in rounds for entry in line["sites"].values())
    full = 2 * weight_bytes * trainings
    return {
        "up": up,
        "down": down,
        "full_weights": full,
        "ratio": (up + down) / full if full else None,
    }


def versions() -> dict[str, str]:
    """Return the versions that a run's numbers depend on.

    The app's own version is left out where Flower brought it as a bundle, as it is then not
    installed.
    """
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _group(values: Mapping[str, float], prefix: str) -> dict[str, dict[str, float]]:
    """Nest the values under ``PREFIX.dice.LV`` … as ``{"dice": {"LV": …}, "hd95_mm": {…}}``."""
    group: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        head, _, rest = key.partition(".")
        if head == prefix:
            metric, _, structure = rest.partition(".")
            group.setdefault(metric, {})[structure] = value
    return group


def print_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary as a table, and a sentence on the traffic."""
    table = Table(title=f"{summary['method']}, {summary['rounds']} rounds: Dice on test patients")
    table.add_column("site")
    for name in ("cases", *STRUCTURES, "mean", "base", "gain", "HD95 mm", "base HD95"):
        table.add_column(name, justify="right")
    for site, values in summary["sites"].items():
        test, base = values["test"], values["base"]
        mean, before = test["dice"]["mean"], base["dice"]["mean"]
        table.add_row(
            clean(site, NAME_LENGTH),
            str(test["cases"]),
            *(f"{test['dice'][structure]:.3f}" for structure in STRUCTURES),
            f"{mean:.3f}",
            f"{before:.3f}",
            f"{mean - before:+.3f}",
            f"{test['hd95_mm']['mean']:.1f}",
            f"{base['hd95_mm']['mean']:.1f}",
        )
    console.print(table)
    moved = summary["bytes"]
    if moved["full_weights"]:
        console.print(
            f"Sent {mib(moved['up'])} up and {mib(moved['down'])} down; averaging full weights "
            f"would send {mib(moved['full_weights'])}: {1 - moved['ratio']:.1%} less."
        )
