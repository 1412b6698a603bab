"""Measures how long each merge of many sites' adapters computes, and how much memory it takes.

Each figure comes from a process of its own. The process makes random adapters of the given network
for N sites with mixed ranks and merges them ``--repeat`` times. It reports the median CPU time, and
by how much the merges raised the peak of its resident memory. The adapters themselves, which the
server holds anyway, are counted separately. ``norm`` is ``pad`` with shares by the norms of the
products; ``fold`` and ``residual`` include adding the dense weight changes to the base.

    python -m benchmarks.merging
    python -m benchmarks.merging --sites 300 --merge svd
    python -m benchmarks.merging --ranks 16 --merge residual pad
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch

from benchmarks.shared import PAPER, ROOT, parser, peak, publish, reset_peak
from common import lora
from common.adapter import Adapter, Factors
from common.config import ModelConfig
from common.folding import fold
from common.model import build_unet
from common.text import mib
from strategies.merging import merge, residual, stack
from strategies.weighting import product_norm, shares

MERGES = ("svd", "pad", "norm", "fold", "residual")


def make_adapters(features: str, ranks: list[int], sites: int) -> dict[str, Adapter]:
    """Return one random adapter for each site; the sites take the ranks in turn."""
    with torch.device("meta"):
        shapes = lora.layer_shapes(build_unet(ModelConfig(features=features).channels()))
    generator = torch.Generator().manual_seed(0)
    adapters = {}
    for site in range(sites):
        rank = ranks[site % len(ranks)]
        layers = {
            name: Factors(
                A=torch.randn(rank, fan_in, generator=generator) / fan_in**0.5,
                B=torch.randn(c_out, rank, generator=generator) / rank**0.5,
            )
            for name, (c_out, fan_in) in shapes.items()
        }
        adapters[f"site {site:04}"] = Adapter(layers, scale=1.0)
    return adapters


def run_merge(adapters: Mapping[str, Adapter], how: str) -> int:
    """Merge as the server does once a round; return the rank of the merged or folded adapter."""
    examples = dict.fromkeys(adapters, 1)
    if how == "norm":
        norms = {site: product_norm(adapter) for site, adapter in adapters.items()}
        return merge(adapters, shares(examples, "norm", norms), "pad").rank
    mass = shares(examples, "site")
    if how == "fold":
        stacked = stack(adapters, mass)
        fold(None, stacked)
        return stacked.rank
    merged = merge(adapters, mass, how)
    if how == "residual":
        missed = residual(adapters, mass)
        fold(None, missed)
        return missed.rank
    return merged.rank


def measure(args: argparse.Namespace, how: str, sites: int) -> dict[str, Any]:
    """Merge in this process; return the CPU time and the memory that it took."""
    adapters = make_adapters(args.features, args.ranks, sites)
    before = reset_peak()
    seconds = []
    for _ in range(args.repeat):
        started = time.process_time()
        rank = run_merge(adapters, how)
        seconds.append(time.process_time() - started)
    return {
        "sites": sites,
        "merge": how,
        "rank": rank,
        "cpu_s": median(seconds),
        "adapters_bytes": sum(adapter.payload_bytes for adapter in adapters.values()),
        "extra_bytes": peak() - before,
    }


def measure_apart(argv: list[str], how: str, sites: int) -> dict[str, Any]:
    """Call :func:`measure` in a new process, whose memory nothing but the merge uses."""
    own = ["--one", how, str(sites)]
    command = [sys.executable, "-m", "benchmarks.merging", *argv, *own]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--features", default=PAPER, help="channels of the U-Net")
    options.add_argument("--sites", type=int, nargs="+", default=[3, 30])
    options.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    options.add_argument("--merge", nargs="+", default=MERGES, choices=MERGES)
    options.add_argument("--repeat", type=int, default=3)
    options.add_argument("--one", nargs=2, metavar=("MERGE", "SITES"), help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.one:
        print(json.dumps(measure(args, args.one[0], int(args.one[1]))))
        return

    argv = sys.argv[1:]
    rows = [measure_apart(argv, how, sites) for sites in args.sites for how in args.merge]
    table = [
        [
            str(row["sites"]),
            row["merge"],
            str(row["rank"]),
            f"{row['cpu_s']:.3f}",
            mib(row["extra_bytes"]),
            mib(row["adapters_bytes"]),
            f"{row['extra_bytes'] / row['adapters_bytes']:.2f}",
        ]
        for row in rows
    ]
    columns = ("sites", "merge", "rank", "cpu_s", "memory at peak", "adapters held", "ratio")
    title = f"Merging, ranks {'/'.join(map(str, args.ranks))} in turn: median of {args.repeat}"
    result = {"features": args.features, "ranks": args.ranks, "repeat": args.repeat, "rows": rows}
    publish(title, columns, table, result, args.json)


if __name__ == "__main__":
    main()
