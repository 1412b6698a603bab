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
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.federation import (
    LOOPBACK,
    Tls,
    Value,
    new_key,
    register,
    start_run,
    start_site,
    start_superlink,
)
from benchmarks.namespaces import Counters, Link, NotPermittedError, namespace
from benchmarks.processes import Processes, clean_up_when_told_to_end, free_ports, processes
from benchmarks.relay import relay
from benchmarks.report import PAPER, mib, parser, publish
from benchmarks.wire import RANKS, prepare

DEMO = "8,16,32,64,128,8"
LINE = Link("rml-line", "10.79.0.1", "10.79.0.2")
MEASURED = "GE"
POLL_S = 0.02
MARKS = ("Receiving: train", "Received successfully", "Sending: train", "Sent successfully")


def start_sites(
    running: Processes, ports: Sequence[int], relayed: str, data: Path, base: Path
) -> None:
    """Let all sites join, the measured one by the relay."""
    tls = Tls(running.folder / "tls")
    for site in RANKS:
        key = new_key(running.folder, site)
        register(ports[1], tls, key)
        far = site == MEASURED
        settings = {
            "superlink": relayed if far else f"{LOOPBACK}:{ports[0]}",
            "root-certificates": str(tls.root),
            "private-key": str(key),
            "site": site,
            "data-dir": str(data),
            "base-model": str(base),
            "cache-dir": str(running.folder / "cache"),
        }
        start_site(running, settings, namespace=LINE.name if far else "")


def watch(
    running: Processes, run_dir: Path, timeout_s: float
) -> tuple[list[Counters], list[float]]:
    """Follow a run to its end.

    Returns
    -------
    counters
        Of the interface, at the end of every round.
    moments
        When each of ``MARKS`` came in turn in the measured site's log since the first of them.

    Raises
    ------
    RuntimeError
        A process ended early, or the run did not end in time.
    """
    history = run_dir / "history.jsonl"
    log = running.folder / f"{MEASURED}.log"
    read = log.stat().st_size
    counters: list[Counters] = []
    moments: list[float] = []
    deadline = time.monotonic() + timeout_s
    while "run" not in running.dead():
        if len(moments) < len(MARKS):
            with log.open("rb") as file:
                file.seek(read)
                text = file.read().decode("utf-8", "replace")
            if (at := text.find(MARKS[len(moments)])) >= 0:
                read += len(text[: at + len(MARKS[len(moments)])].encode())
                moments.append(time.monotonic())
        lines = history.read_bytes().count(b"\n") if history.is_file() else 0
        if lines > len(counters):
            counters.append(LINE.counters())
        if time.monotonic() > deadline:
            raise RuntimeError(f"no end within {timeout_s:g} s")
        time.sleep(POLL_S)
    if not (run_dir / "summary.json").is_file():
        raise RuntimeError("the run failed")
    return counters, moments


def measure(
    folder: Path, args: argparse.Namespace, features: str, rank: int, rounds: int
) -> dict[str, Any]:
    """Run a federation; return what the measured site's line carried, and for how long."""
    folder.mkdir()
    paths = prepare(folder, features, patients=3)
    config: dict[str, Value] = {
        "features": features, "rank": rank, "ranks": "equal", "image-size": 32,
        "spacing-mm": 8.0, "augment": False, "device": "cpu", "threads": 1, "rounds": rounds + 1,
        "sites": len(RANKS), "min-sites": len(RANKS), "base-model": str(paths["base"]),
        "run-dir": str(paths["run"]), "cache-dir": str(folder / "cache"), "keep-updates": "none",
    }  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(namespace(LINE))
        LINE.shape(mbit_up=args.mbit, mbit_down=args.mbit)
        running = stack.enter_context(processes(folder))
        tls = Tls.create(folder / "tls", LOOPBACK, LINE.host)
        ports = start_superlink(running, LOOPBACK, tls=tls)
        (door,) = free_ports(1)
        here, target = (LINE.host, door), (LOOPBACK, ports[0])
        stack.enter_context(relay(here, target, args.round_trip_ms / 2000))
        start_sites(running, ports, f"{LINE.host}:{door}", paths["data"], paths["base"])
        start_run(running, ports[1], paths["app"], config, tls=tls)
        try:
            counters, moments = watch(running, paths["run"], args.timeout)
        except RuntimeError:
            for name in running.running:
                print(f"--- {name}\n{running.log(name)[-2000:]}", file=sys.stderr)
            raise
    text = (paths["run"] / "history.jsonl").read_text("utf-8")
    history = [json.loads(line) for line in text.splitlines()]
    return {"rank": rank, **_seconds(moments), "rounds": _rounds(counters, history)}


def _seconds(moments: Sequence[float]) -> dict[str, float]:
    """Return how long the first training message took to come, and its answer to go."""
    return {"down_s": moments[1] - moments[0], "up_s": moments[3] - moments[2]}


def _rounds(
    counters: Sequence[Counters], history: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(history[1:-1], start=1):  # the final test follows the last
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
    options.add_argument("--mbit", type=float, default=4.0, help="each way, in a second")
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
