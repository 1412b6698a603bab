"""Measures the bytes that cross a site's network interface against the payload that a run reports.

The script makes a real run over gRPC on this machine: a SuperLink and three SuperNodes in
processes of their own, the measured one in a network namespace behind a veth pair. It reads the
interface's counters at the end of each round, when ``history.jsonl`` gains a line, and compares
their difference with that site's ``bytes_down`` and ``bytes_up`` of the round. Everything in
between counts: requests for every array, the configuration in each message, polling, heartbeats.
The data are tiny phantoms and the base is random, but the network, and so the adapter, has the
paper's size.

There are two figures for each direction. *Frames* are all bytes as Ethernet frames of at most 1514
bytes, with the acknowledgements of the other direction. *Stream* leaves out the 66 bytes of
Ethernet, IP and TCP headers of each packet, so it has what gRPC and Flower add. The claim is about
the stream: it is within 3 % of the payload in every round. The headers add 4.6 % to a full frame,
whatever it carries. With ``--large-packets`` the veth pair passes packets of up to 64 KiB, and the
counters show almost no headers.

The script needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and ``ip``. It uses the addresses
10.77.0.1 and 10.77.0.2.

    python -m benchmarks.wire                     # GE, rank 16: 1.80 MiB
    python -m benchmarks.wire --site Philips      # rank 32: 3.60 MiB
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.federation import start_run, start_superlink, start_supernode
from benchmarks.namespaces import WIRE, Counters, Link, NotPermittedError, namespace
from benchmarks.processes import Processes, clean_up_when_told_to_end, processes
from benchmarks.shared import PAPER, copy_app, parser, publish
from cardiac.phantom import write_mnms2
from common.config import ModelConfig
from common.model import build_unet, save_base
from common.options import Value
from common.text import mib
from server_app.run_dir import RunDir

VENDORS = {
    "GE": "GE MEDICAL SYSTEMS",
    "Philips": "Philips Medical Systems",
    "Siemens": "SIEMENS",
}
RANKS = {"GE": 16, "Philips": 32, "Siemens": 32}
POLL_S = 0.02
CLAIM = 0.03
"""Highest excess of the stream over the payload, as a part of the payload."""


def prepare(
    folder: Path, features: str, rounds: int, patients: int = 3
) -> tuple[Path, Path, dict[str, Value]]:
    """Make phantoms, a random base and a copy of the app in a folder.

    Returns
    -------
    data
        Folder of the phantoms, with ``patients`` patients of every site.
    app
        The copy of the app.
    config
        A run configuration with one round more than ``rounds``: the final test follows the last
        round, so that one is not measured.
    """
    data, base = folder / "data", folder / "base.safetensors"
    write_mnms2(data, patients=dict.fromkeys(VENDORS.values(), patients))
    torch.manual_seed(0)
    save_base(build_unet(ModelConfig(features=features).channels()), base)
    config: dict[str, Value] = {
        "features": features,
        "image-size": 32,
        "spacing-mm": 8.0,
        "augment": False,
        "device": "cpu",
        "threads": 1,
        "rounds": rounds + 1,
        "sites": len(RANKS),
        "min-sites": len(RANKS),
        "base-model": str(base),
        "run-dir": str(folder / "run"),
        "cache-dir": str(folder / "cache"),
    }
    return data / "mnms2", copy_app(folder / "rate-my-lora"), config


def follow(
    running: Processes,
    config: Mapping[str, Value],
    timeout_s: float,
    link: Link = WIRE,
    look: Callable[[], None] = lambda: None,
) -> tuple[list[Counters], list[dict[str, Any]]]:
    """Follow a run to its end; call ``look`` each time the history is looked at.

    Returns
    -------
    counters
        Counters of the link at the end of round 0, 1, …, of the last round, and of the run.
    history
        Lines of the run's history.

    Raises
    ------
    RuntimeError
        The run or another process ended early, or the run did not end within ``timeout_s``.
    """
    folder, rounds = RunDir(Path(str(config["run-dir"]))), int(config["rounds"])
    seen: list[Counters] = []
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            look()
            dead = running.dead()
            lines = folder.history.read_bytes().count(b"\n") if folder.history.is_file() else 0
            if lines > len(seen):
                seen.append(link.counters())
                print(f"round {lines - 1} of {rounds} done", file=sys.stderr, flush=True)
            if lines > len(seen):
                raise RuntimeError("two rounds ended between two looks at the history")
            if dead == ["run"] and lines > rounds:
                return [*seen, link.counters()], folder.read_history()
            if dead:
                raise RuntimeError(f"{', '.join(dead)} ended after {lines} line(s) of history")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no end within {timeout_s:g} s, {lines} line(s) of history")
            time.sleep(POLL_S)
    except RuntimeError:
        for name in running.running:
            tail = running.log(name).splitlines()[-15:]
            print(f"--- {name}", *tail, sep="\n", file=sys.stderr)
        raise


def run_federation(args: argparse.Namespace, folder: Path) -> tuple[list[Counters], list[Any]]:
    """Run a federation; return what :func:`follow` returns."""
    data, app, config = prepare(folder, args.features, args.rounds, args.patients)
    ranks = ",".join(f"{site}={rank}" for site, rank in RANKS.items())
    config |= {"rank": max(RANKS.values()), "ranks": ranks, "round-timeout-s": 600}
    with namespace(frames=not args.large_packets), processes(folder) as running:
        fleet, control = start_superlink(running, WIRE.host)
        for site in RANKS:
            node = {"site": site, "data-dir": str(data), "base-model": str(config["base-model"])}
            node["approve"] = "any"
            measured = WIRE.name if site == args.site else ""
            start_supernode(running, f"{WIRE.host}:{fleet}", node, namespace=measured)
        start_run(running, control, app, config)
        counters, history = follow(running, config, args.timeout)
    if refused := [one for line in history for one in line["refused"]]:
        raise RuntimeError(f"not all sites took part in every round: {refused[0]}")
    return counters, history


def compare(
    counters: Sequence[Counters], history: Sequence[Any], site: str
) -> list[dict[str, Any]]:
    """Return one row for each round from 1 on, and one for all rounds together."""
    rows = []
    for line in history[1:-1]:
        number, entry = line["round"], line["sites"][site]
        crossed = counters[number] - counters[number - 1]
        rows.append(_row(str(number), entry["bytes_up"], entry["bytes_down"], crossed))
    up, down = (sum(row[f"payload_{way}"] for row in rows) for way in ("up", "down"))
    rows.append(_row(f"1 to {len(rows)}", up, down, counters[len(rows)] - counters[0]))
    return rows


def _row(name: str, up: int, down: int, crossed: Counters) -> dict[str, Any]:
    return {
        "round": name,
        "payload_down": down,
        "payload_up": up,
        "frames_down": crossed.bytes_down,
        "frames_up": crossed.bytes_up,
        "stream_down": crossed.stream_down,
        "stream_up": crossed.stream_up,
        "packets_down": crossed.packets_down,
        "packets_up": crossed.packets_up,
        "stream_over": (crossed.stream_down + crossed.stream_up) / (down + up) - 1,
        "frames_over": (crossed.bytes_down + crossed.bytes_up) / (down + up) - 1,
    }


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--site", default="GE", choices=sorted(RANKS), help="site to measure")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--features", default=PAPER, help="channels of the U-Net")
    options.add_argument("--patients", type=int, default=3, help="patients of each site")
    options.add_argument(
        "--large-packets",
        action="store_true",
        help="let packets have up to 64 KiB",
    )
    options.add_argument("--timeout", type=float, default=1800, help="seconds for the whole run")
    options.add_argument("--keep", type=Path, metavar="DIR", help="new folder for logs and run")
    args = options.parse_args()

    clean_up_when_told_to_end()
    with ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(TemporaryDirectory(prefix="wire-")))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            counters, history = run_federation(args, folder.resolve())
        except NotPermittedError as error:
            sys.exit(f"cannot measure the wire here, no network namespace: {error}")
        except RuntimeError as error:
            sys.exit(f"the run failed: {error}")
    rows = compare(counters, history, args.site)
    rank = RANKS[args.site]
    title = f"{args.site}, rank {rank}: MiB a round in Ethernet frames and in the TCP stream"
    table = [
        [
            row["round"],
            *(
                mib(row[f"{kind}_{way}"])
                for way in ("down", "up")
                for kind in ("payload", "stream")
            ),
            f"{row['stream_over']:+.2%}",
            f"{row['frames_over']:+.2%}",
        ]
        for row in rows
    ]
    columns = ("round", "down", "stream", "up", "stream", "stream / payload", "frames / payload")
    before, after = counters[0], counters[-1] - counters[args.rounds]
    result = {
        "site": args.site,
        "rank": rank,
        "features": args.features,
        "rounds": rows,
        "before_round_1": {"up": before.bytes_up, "down": before.bytes_down},
        "after_last_round": {"up": after.bytes_up, "down": after.bytes_down},
        "seconds": [line["seconds"] for line in history],
        "holds": all(row["stream_over"] <= CLAIM for row in rows),
    }
    publish(title, columns, table, result, args.json)


if __name__ == "__main__":
    main()
