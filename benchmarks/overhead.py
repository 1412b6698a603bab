"""Measures how much of a run's time passes without any site computing.

The script reads ``history.jsonl`` of a finished run. The server times the phases of a round, which
follow each other: ``train`` and ``validate`` last from sending to the last reply; ``merge`` and
``re-merge`` are the server's own computing. Each site reports ``train_s``, the seconds of its
training from the loaded data to the finished adapter.

The time outside of site computing is ``merge``, ``re-merge``, and the part of ``train`` in which
no site trains. Where sites train one at a time (``--at-once 1``, as in a simulation on one
worker), this part is train − Σ train_s. Otherwise it lies between two bounds, because nobody
records when a site started:

    most    train − max(longest train_s, Σ train_s / at-once)    sites overlap as well as they can
    least   train − min(train, Σ train_s)                        they overlap as little as they can

The claim uses ``most``, the less favourable bound. The script leaves out two things and says so
with the result: all of ``validate`` counts as site computing unless the sites report
``validate_s``; and what the server does between rounds (checkpoint, plot) is in no phase.

    python -m benchmarks.overhead runs/latest
    python -m benchmarks.overhead runs/latest --at-once 1
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.shared import parser, publish
from server_app.run_dir import RunDir

SERVER_PHASES = ("merge", "re-merge")
SITE_PHASES = {"train": "train_s", "validate": "validate_s"}
"""Each phase in which sites compute, and the key of a site's own seconds in it."""


def idle_bounds(wall_s: float, busy_s: Sequence[float], at_once: int) -> tuple[float, float]:
    """Return the least and the most seconds of a phase in which no site computes.

    The phase takes ``wall_s``; each site computes for one of ``busy_s`` in it, and at most
    ``at_once`` sites do so at the same time.
    """
    longest, total = max(busy_s), sum(busy_s)
    most = wall_s - max(longest, total / at_once)
    least = most if at_once == 1 else wall_s - min(wall_s, total)
    return max(least, 0.0), max(most, 0.0)


def round_overhead(line: Mapping[str, Any], at_once: int) -> dict[str, float]:
    """Return a round's wall time, and its part outside of site computing, in seconds."""
    seconds, sites = line["seconds"], line["sites"].values()
    server = sum(seconds.get(phase, 0.0) for phase in SERVER_PHASES)
    least = most = server
    for phase, key in SITE_PHASES.items():
        busy = [site[key] for site in sites if site.get(key) is not None]
        if busy and phase in seconds:
            bounds = idle_bounds(seconds[phase], busy, min(at_once, len(busy)))
            least, most = least + bounds[0], most + bounds[1]
    return {"wall": sum(seconds.values()), "server": server, "least": least, "most": most}


def read_rounds(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of the history from round 1 on."""
    rounds = [line for line in RunDir(run_dir).read_history() if line["round"] > 0]
    if not rounds:
        sys.exit(f"{run_dir}: found no finished round, expected the folder of a run")
    return rounds


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("run_dir", type=Path, metavar="RUN_DIR")
    options.add_argument(
        "--at-once",
        type=int,
        default=sys.maxsize,
        metavar="N",
        help="most sites that compute at the same time (default: all)",
    )
    args = options.parse_args()

    lines = read_rounds(args.run_dir)
    rounds = [round_overhead(line, args.at_once) for line in lines]
    total = {key: sum(one[key] for one in rounds) for key in rounds[0]}
    names = [*(str(line["round"]) for line in lines), "all"]
    table = [_row(name, one) for name, one in zip(names, [*rounds, total], strict=True)]
    reports = any("validate_s" in site for line in lines for site in line["sites"].values())
    result = {
        "run": args.run_dir.name,
        "at_once": None if args.at_once == sys.maxsize else args.at_once,
        "rounds": rounds,
        "total": total,
        "share_least": total["least"] / total["wall"],
        "share_most": total["most"] / total["wall"],
        "median_round_share_most": median(one["most"] / one["wall"] for one in rounds),
        "validation_counts_as_site_computing": not reports,
        "between_rounds_counted": False,
    }
    columns = ("round", "wall s", "server s", "outside ≥ s", "outside ≤ s", "share")
    publish("Time outside of site computing", columns, table, result, args.json)


def _row(name: str, one: Mapping[str, float]) -> list[str]:
    share = f"{one['least'] / one['wall']:.1%} to {one['most'] / one['wall']:.1%}"
    return [name, *(f"{one[key]:.2f}" for key in ("wall", "server", "least", "most")), share]


if __name__ == "__main__":
    main()
