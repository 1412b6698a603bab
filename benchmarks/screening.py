"""Measures the screening's computing time and memory on the server, and the following merge's.

The adapters are random and fit the given network. One site in ten sends values a hundred times too
large, so that the merge includes adapters that were scaled back and have a higher rank.

    python -m benchmarks.screening
    python -m benchmarks.screening --sites 3 30
"""

import time

from benchmarks.merging import _peak_resident, _resident, make_adapters
from benchmarks.report import PAPER, mib, parser, publish
from common.adapter import Adapter, Factors
from common.config import ScreeningConfig
from strategies.merging import merge
from strategies.screening import screen

RULES = {
    "norm-bound": ScreeningConfig(norm_bound=3.0),
    "min-agreement": ScreeningConfig(min_agreement=-0.9),
}


def enlarged(adapter: Adapter) -> Adapter:
    """Return the adapter times 100."""
    layers = {name: Factors(f.A, 100 * f.B) for name, f in adapter.layers.items()}
    return Adapter(layers, adapter.scale)


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--features", default=PAPER, help="channels of the U-Net")
    options.add_argument("--sites", type=int, nargs="+", default=[3, 30, 300])
    options.add_argument("--ranks", type=int, nargs="+", default=[16, 32, 32])
    args = options.parse_args()
    rows = []
    for sites in args.sites:
        adapters = make_adapters(args.features, args.ranks, sites + 1)
        _, start = adapters.popitem()
        adapters |= {name: enlarged(adapters[name]) for name in list(adapters)[::10]}
        merged = dict(adapters)
        for rule, method in RULES.items():
            before, started = _resident(), time.process_time()
            found = screen(adapters, start, method)
            row = {"sites": sites, "what": rule, "cpu_s": time.process_time() - started}
            rows.append({**row, "extra_bytes": _peak_resident() - before})
            merged |= found.adapters
        for what, content in (("merge", adapters), ("merge of bounded", merged)):
            before, started = _resident(), time.process_time()
            merge(content, dict.fromkeys(content, 1 / sites), "svd")
            row = {"sites": sites, "what": what, "cpu_s": time.process_time() - started}
            rows.append({**row, "extra_bytes": _peak_resident() - before})
    table = [
        [str(r["sites"]), str(r["what"]), f"{r['cpu_s']:.3f}", mib(float(str(r["extra_bytes"])))]
        for r in rows
    ]
    columns = ("sites", "what", "cpu_s", "memory at peak")
    title = f"Screening, ranks {'/'.join(map(str, args.ranks))} in turn"
    publish(title, columns, table, {"ranks": args.ranks, "rows": rows}, args.json)


if __name__ == "__main__":
    main()
