"""Measures how far one bad site of three harms the others, with and without screening.

The script runs the demo on its phantom in simulation, once for every row of the table. The app is
a temporary copy whose ClientApp is :mod:`benchmarks.attacks`: the shipped app, with one site's
answers falsified. The harm is by how much the merged model's test Dice at the other two sites is
lower than in a clean run with the same seed and without screening. A row whose summary is in
``--runs`` is not run again.

    python -m benchmarks.robustness
    python -m benchmarks.robustness --rounds 2 --only "× 100"
"""

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.federation import flower_config
from benchmarks.shared import copy_app, parser, publish
from common.flower_environment import SCRIPTS
from common.options import Value
from server_app.run_dir import RunDir

SITES = ("GE", "Philips", "Siemens")
"""Sites of the phantom, in the order of the partitions; GE is the smallest, Siemens the largest."""
AGREE: dict[str, Value] = {"min-agreement": 0.0}
BOUND: dict[str, Value] = {"norm-bound": 3.0}
CHECK: dict[str, Value] = {"rating-check": 3.0}
EVERYTHING = {**AGREE, **BOUND, **CHECK}
PAIRS: list[tuple[str, dict[str, Value], str]] = [
    ("sign flip", AGREE, "Siemens"),
    ("× 100", BOUND, "Siemens"),
    ("Dice falling fast", CHECK, "Siemens"),
    ("noise", {"min-agreement": 0.1}, "Siemens"),
    ("× 100", {"norm-bound": 1.5}, "Siemens"),
    ("sign flip", AGREE, "GE"),
    ("× 100", BOUND, "GE"),
    ("noise", BOUND, "Siemens"),
    ("sign flip", BOUND, "Siemens"),
    ("Dice ever falling", CHECK, "GE"),
    ("Dice always 1", CHECK, "GE"),
    ("Dice always 0", CHECK, "GE"),
    ("Dice at random", CHECK, "GE"),
]
"""Each attack, the screening keys set against it, and the bad site."""


@dataclass(frozen=True)
class Row:
    """One run: which site attacks and how, and which screening keys are set."""

    attack: str
    site: str
    options: dict[str, Value]
    seed: int = 0

    @property
    def key(self) -> str:
        """The name of the run's folder."""
        on = " ".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.attack} {self.site} {on} {self.seed}".replace(" ", "_")


def rows(seeds: list[int]) -> list[Row]:
    """Return all runs; first seed 0, then a few rows for each other seed."""
    made = [Row("", "", {}), Row("", "", EVERYTHING)]
    for attack, against, site in PAIRS:
        pair = [Row(attack, site, {}), Row(attack, site, against)]
        made += [row for row in pair if row not in made]
    for seed in seeds:
        made += [Row("", "", {}, seed), Row("", "", EVERYTHING, seed)]
        for attack, against, site in PAIRS[:2]:
            made += [Row(attack, site, {}, seed), Row(attack, site, against, seed)]
    return made


def bad_app(folder: Path) -> Path:
    """Return a copy of the app whose sites are those of :mod:`benchmarks.attacks`."""
    project = copy_app(folder / "app", "benchmarks") / "pyproject.toml"
    text, shipped = project.read_text("utf-8"), 'clientapp = "client_app.app:app"'
    assert shipped in text
    project.write_text(text.replace(shipped, 'clientapp = "benchmarks.attacks:app"'), "utf-8")
    return project.parent


def simulate(app: Path, row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """Run a simulation, unless its summary is there, and return the summary."""
    run_dir = args.runs.absolute() / f"{args.rounds}-rounds" / row.key
    keys: dict[str, Value] = {
        "rounds": args.rounds,
        "cache-dir": str(args.cache_dir.absolute()),
        "run-dir": str(run_dir),
        "seed": row.seed,
        "threads": 1,
        **row.options,
    }
    resources = json.dumps({"client_resources": {"num_cpus": 1}})
    command = [
        str(SCRIPTS / "flower-simulation"),
        *("--app", str(app), "--num-supernodes", str(len(SITES))),
        *("--run-config", flower_config(keys), "--backend-config", resources),
    ]
    if not (run_dir / "summary.json").is_file():
        partition = str(SITES.index(row.site)) if row.site else ""
        bad = {"ATTACK": row.attack, "ATTACK_PARTITION": partition}
        done = subprocess.run(
            command, cwd=app, env={**os.environ, **bad}, check=False, capture_output=True, text=True
        )
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "log.txt").write_text(done.stdout + done.stderr, encoding="utf-8")
    return read(run_dir)


def read(run_dir: Path) -> dict[str, Any]:
    """Return the test Dice by site, and what the screening did in every round."""
    summary = run_dir / "summary.json"
    sites = json.loads(summary.read_text("utf-8"))["sites"] if summary.is_file() else {}
    lines = RunDir(run_dir).read_history()
    kept = ("norm_ratio", "agreement", "unrated", "penalty")
    return {
        "rounds": lines[-1]["round"],
        "dice": {site: found["test"]["dice"]["mean"] for site, found in sites.items()},
        "history": [
            {
                "refused": [r["site"] for r in line["refused"]],
                "sites": {
                    site: {key: entry.get(key) for key in kept}
                    for site, entry in line["sites"].items()
                },
            }
            for line in lines[1:]
        ],
    }


def mean_of_others(found: dict[str, Any], site: str) -> float:
    """Return the mean test Dice of all sites but one, of a run that ended."""
    return fmean(dice for name, dice in found["dice"].items() if name != site)


def described(row: Row, found: dict[str, Any], clean: dict[str, Any]) -> list[str]:
    """Return a row of the table: the run, the harm to the others, how often screening acted."""
    harm = "run stopped"
    if found["dice"]:
        others, reference = mean_of_others(found, row.site), mean_of_others(clean, row.site)
        harm = f"{others - reference:+.3f}"
    scaled = left_out = unrated = 0
    bound = float(row.options.get("norm-bound", 0)) or float("inf")
    for line in found["history"]:
        scaled += sum((entry["norm_ratio"] or 0) > bound for entry in line["sites"].values())
        unrated += sum(bool(entry["unrated"]) for entry in line["sites"].values())
        left_out += len(line["refused"])
    on = ", ".join(f"{key} {value:g}" for key, value in row.options.items()) or "off"
    acts = f"{left_out} / {scaled} / {unrated}"
    return [row.attack or "none", row.site or "", str(row.seed), on, harm, acts]


def main() -> None:
    """Run and report."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=4)
    options.add_argument("--seeds", type=int, nargs="*", default=[], help="beside 0, a few rows")
    options.add_argument("--only", nargs="*", help="attacks, by name; clean runs are always made")
    options.add_argument("--runs", type=Path, default=Path("runs/robustness"))
    options.add_argument("--cache-dir", type=Path, default=Path("runs/cache"))
    args = options.parse_args()
    chosen = [r for r in rows(args.seeds) if not (r.attack and args.only) or r.attack in args.only]
    result = []
    with tempfile.TemporaryDirectory() as folder:
        app = bad_app(Path(folder))
        for row in chosen:
            result.append((row, simulate(app, row, args)))
            print(row.key, flush=True)
    clean = {row.seed: found for row, found in result if not row.attack and not row.options}
    table = [described(row, found, clean[row.seed]) for row, found in result]
    columns = ("attack", "by", "seed", "screening", "others' Dice", "out/scaled/unrated")
    title = f"One bad site of three, {args.rounds} rounds: test Dice of the others against clean"
    found = {"rows": [{**vars(row), **found} for row, found in result]}
    publish(title, columns, table, {"rounds": args.rounds, **found}, args.json)


if __name__ == "__main__":
    main()
