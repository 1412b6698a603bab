"""Measures what a slow line costs a hospital: 4 Mbit/s and 100 ms, over TLS.

Three hospitals join a SuperLink on this machine. One of them is in a network namespace whose veth
pair passes 4 Mbit/s each way (``tc tbf``). It connects through a relay that delays every byte by
half of the round-trip time, as not every kernel has ``netem``. TLS, keys, gRPC and SuperNode are
real.

*Rounds* is a run of the demo's size; it compares the bytes that crossed the interface with the
payload. *Transfers* is one round of the paper's network in which the site trains at rank 16, 32 and
264; at 264 an adapter has as many bytes as the network's full weights. It times the training
message from the SuperNode's "Receiving" to its "Received successfully", and the reply from
"Sending" to "Sent successfully".

*Wire* counts all bytes that crossed the interface in a round, including polling and heartbeats.
*Stream* leaves out the 66 bytes of Ethernet, IP and TCP headers of each packet: it is what TLS
hands to TCP.

The script needs root and ``ip``.

    python -m benchmarks.link                     # about ten minutes, most of it waiting
    python -m benchmarks.link --ranks 16
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.federation import LOOPBACK, Tls, join, start_run, start_superlink
from benchmarks.namespaces import Counters, Link, NotPermittedError, namespace
from benchmarks.processes import clean_up_when_told_to_end, free_ports, processes
from benchmarks.relay import relay
from benchmarks.shared import PAPER, parser, publish
from benchmarks.wire import RANKS, follow, prepare
from common.text import mib

DEMO = "8,16,32,64,128,8"
LINE = Link("rml-line", "10.79.0.1", "10.79.0.2")
MEASURED = "GE"
MARKS = ("Receiving: train", "Received successfully", "Sending: train", "Sent successfully")
"""What a SuperNode logs around its first training, in this order."""


class Transfers:
    """Notes when each of ``MARKS`` appears, in turn, in what a log gains from now on."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.read = log.stat().st_size
        self.moments: list[float] = []

    def look(self) -> None:
        """Look for the next mark."""
        if len(self.moments) == len(MARKS):
            return
        mark = MARKS[len(self.moments)].encode()
        if (at := self.log.read_bytes().find(mark, self.read)) >= 0:
            self.read = at + len(mark)
            self.moments.append(time.monotonic())


def measure(
    folder: Path, args: argparse.Namespace, features: str, rank: int, rounds: int
) -> dict[str, Any]:
    """Run a federation; return the bytes and the seconds of the measured site's transfers."""
    folder.mkdir()
    data, app, config = prepare(folder, features, rounds)
    config |= {"rank": rank, "ranks": "equal", "keep-updates": "none"}
    with namespace(LINE), processes(folder) as running:
        LINE.shape(mbit_up=args.mbit, mbit_down=args.mbit)
        tls = Tls.create(folder / "tls", LOOPBACK, LINE.host)
        fleet, control, _ = start_superlink(running, LOOPBACK, tls=tls)
        (door,) = free_ports(1)
        with relay((LINE.host, door), (LOOPBACK, fleet), args.round_trip_ms / 2000):
            for site in RANKS:
                far = site == MEASURED
                settings = {
                    "superlink": f"{LINE.host}:{door}" if far else f"{LOOPBACK}:{fleet}",
                    "site": site,
                    "data-dir": str(data),
                    "base-model": config["base-model"],
                }
                join(running, control, tls, settings, namespace=LINE.name if far else "")
            start_run(running, control, app, config, tls=tls)
            transfers = Transfers(folder / f"{MEASURED}.log")
            counters, history = follow(running, config, args.timeout, LINE, transfers.look)
    moments = transfers.moments
    return {
        "rank": rank,
        "down_s": moments[1] - moments[0],
        "up_s": moments[3] - moments[2],
        "rounds": _rounds(counters, history),
    }


def _rounds(
    counters: Sequence[Counters], history: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(history[1:-1], start=1):
        crossed = counters[number] - counters[number - 1]
        entry = line["sites"][MEASURED]
        rows.append({
            "round": number,
            "payload_down": entry["bytes_down"], "payload_up": entry["bytes_up"],
            "wire_down": crossed.bytes_down, "wire_up": crossed.bytes_up,
            "stream_down": crossed.stream_down, "stream_up": crossed.stream_up,
            "seconds": sum(line["seconds"].values()),
        })  # fmt: skip
    return rows


def _sum(row: Mapping[str, Any], kind: str) -> int:
    return int(row[f"{kind}_down"] + row[f"{kind}_up"])


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--mbit", type=float, default=4.0, help="rate each way in Mbit/s")
    options.add_argument("--round-trip-ms", type=float, default=100.0)
    options.add_argument("--ranks", type=int, nargs="*", default=[16, 32, 264])
    options.add_argument("--timeout", type=float, default=900, help="seconds for a run")
    args = options.parse_args()
    clean_up_when_told_to_end()
    with TemporaryDirectory(prefix="link-") as name:
        try:
            demo = measure(Path(name, "demo"), args, DEMO, rank=8, rounds=2)
            paper = [
                measure(Path(name, f"rank-{rank}"), args, PAPER, rank, rounds=1)
                for rank in args.ranks
            ]
        except NotPermittedError as error:
            sys.exit(f"cannot shape a line here: {error}")
        except RuntimeError as error:
            sys.exit(f"the run failed: {error}")
    rows = [
        [
            f"round {row['round']}",
            *(mib(row[key]) for key in ("payload_down", "wire_down", "payload_up", "wire_up")),
            f"{_sum(row, 'wire') / _sum(row, 'payload'):.2f}",
            f"{row['seconds']:.0f}",
        ]
        for row in demo["rounds"]
    ]
    columns = ("", "down", "wire", "up", "wire", "wire / payload", "seconds")
    result = {"demo": demo, "paper": paper, "mbit": args.mbit, "round_trip_ms": args.round_trip_ms}
    publish("Rounds of the demo's size", columns, rows, result, args.json)
    transfers = [
        [
            str(run["rank"]),
            mib(run["rounds"][0]["payload_up"]),
            f"{run['down_s']:.1f}",
            f"{run['up_s']:.1f}",
            *(
                f"{_sum(run['rounds'][0], kind) / _sum(run['rounds'][0], 'payload'):.3f}"
                for kind in ("stream", "wire")
            ),
        ]
        for run in paper
    ]
    headings = ("rank", "size", "s down", "s up", "stream / payload", "wire / payload")
    publish("The paper's network", headings, transfers, result, None)


if __name__ == "__main__":
    main()
