"""Measures what screening, and the merge after it, costs the server in time and memory.

The adapters are random and fit the given network. One site in ten sends values a hundred times too
large, so that the merge includes adapters that were scaled back and have a higher rank.

    python -m benchmarks.screening
    python -m benchmarks.screening --sites 3 30
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from benchmarks.merging import make_adapters
from benchmarks.shared import PAPER, parser, peak, publish, reset_peak
from common.adapter import Adapter, Factors
from common.config import ScreeningConfig
from common.text import mib
from strategies.merging import merge
from strategies.screening import screen

T = TypeVar("T")

RULES = {
    "norm-bound": ScreeningConfig(norm_bound=3.0),
    "min-agreement": ScreeningConfig(min_agreement=-0.9),
}


def enlarged(adapter: Adapter) -> Adapter:
    """Return the adapter times 100."""
    layers = {name: Factors(f.A, 100 * f.B) for name, f in adapter.layers.items()}
    return Adapter(layers, adapter.scale)


def cost(work: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """Do some work; return its result, its CPU seconds and the bytes it added to peak memory."""
    before, started = reset_peak(), time.process_time()
    done = work()
    return done, {"cpu_s": time.process_time() - started, "extra_bytes": peak() - before}


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--features", default=PAPER, help="channels of the U-Net")
    options.add_argument("--sites", type=int, nargs="+", default=[3, 30, 300])
    options.add_argument("--ranks", type=int, nargs="+", default=[16, 32, 32])
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for sites in args.sites:
        adapters = make_adapters(args.features, args.ranks, sites + 1)
        _, start = adapters.popitem()
        adapters |= {name: enlarged(adapters[name]) for name in list(adapters)[::10]}
        merged = dict(adapters)
        for rule, config in RULES.items():
            found, row = cost(partial(screen, adapters, start, config))
            rows.append({"sites": sites, "what": rule, **row})
            merged |= found.adapters
        for what, content in (("merge", adapters), ("merge of bounded", merged)):
            _, row = cost(partial(merge, content, dict.fromkeys(content, 1 / sites), "svd"))
            rows.append({"sites": sites, "what": what, **row})
    table = [[str(r["sites"]), r["what"], f"{r['cpu_s']:.3f}", mib(r["extra_bytes"])] for r in rows]
    columns = ("sites", "what", "cpu_s", "memory at peak")
    title = f"Screening, ranks {'/'.join(map(str, args.ranks))} in turn"
    publish(title, columns, table, {"ranks": args.ranks, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
