"""How many bytes really cross a site's network interface, against the payload we report.

A real run over gRPC on this machine: a SuperLink and three SuperNodes as processes of their own,
the measured one in a network namespace behind a veth pair. The interface's counters are read
whenever ``history.jsonl`` gains a line, the end of a round, and their difference is set beside
that site's ``bytes_down`` and ``bytes_up`` of the round. Everything in between counts: requests
for every array, the configuration in each message, polling, heartbeats. Data are tiny phantoms
and the base is random, but the network, so the adapter, has the paper's size.

Two figures a direction: *frames*, all bytes as Ethernet frames of at most 1514 bytes, with the
acknowledgements of the other direction; and *stream*, without the 66 bytes of Ethernet, IP and
TCP headers a packet, which leaves what gRPC and Flower add. The claim is on the stream: within
3 % of the payload in every round. The headers add 4.6 % to a full frame, whatever it carries; with
``--large-packets`` the counters show next to none of them, as on any veth pair left to itself.

Needs root (or CAP_NET_ADMIN and CAP_SYS_ADMIN) and ``ip``; uses the addresses 10.77.0.1 and .2.

    python -m benchmarks.wire                     # GE, rank 16: 1.80 MiB
    python -m benchmarks.wire --site Philips      # rank 32: 3.60 MiB
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.federation import start_run, start_superlink, start_supernode
from benchmarks.namespaces import WIRE, Counters, NotPermittedError, namespace
from benchmarks.processes import Processes, clean_up_when_told_to_end, processes
from benchmarks.report import PAPER, mib, parser, publish
from cardiac.phantom import write_mnms2
from common.config import ModelConfig
from common.model import build_unet, save_base

ROOT = Path(__file__).resolve().parents[1]
VENDORS = {
    "GE": "GE MEDICAL SYSTEMS",
    "Philips": "Philips Medical Systems",
    "Siemens": "SIEMENS",
}
RANKS = {"GE": 16, "Philips": 32, "Siemens": 32}
APP = ("common", "strategies", "client_app", "server_app", "cli", "configs")
POLL_S = 0.05
CLAIM = 0.03


def prepare(folder: Path, features: str, patients: int) -> dict[str, Path]:
    """Make the phantoms, a random base and a copy of the app; return where they are."""
    data = folder / "data"
    write_mnms2(data, patients=dict.fromkeys(VENDORS.values(), patients))
    torch.manual_seed(0)
    base = folder / "base.safetensors"
    save_base(build_unet(ModelConfig(features=features).channels()), base)
    app = folder / "rate-my-lora"
    app.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, app / name)
    for name in APP:
        shutil.copytree(ROOT / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    return {"data": data / "mnms2", "base": base, "app": app, "run": folder / "run"}


def watch(running: Processes, run_dir: Path, rounds: int, timeout_s: float) -> list[Counters]:
    """Return the counters at the end of round 0, 1, …, ``rounds``, and at the end of the run.

    Raises
    ------
    RuntimeError
        The run or another process ended early, or nothing more came within ``timeout_s``.
    """
    history = run_dir / "history.jsonl"
    seen: list[Counters] = []
    deadline = time.monotonic() + timeout_s
    while True:
        lines = history.read_bytes().count(b"\n") if history.is_file() else 0
        if lines > len(seen):
            counters = WIRE.counters()
            if lines > len(seen) + 1:
                raise RuntimeError("two rounds ended between two looks at the history")
            seen.append(counters)
            print(f"round {lines - 1} of {rounds} done", file=sys.stderr, flush=True)
        dead = running.dead()
        if dead == ["run"] and len(seen) == rounds + 1:
            return [*seen, WIRE.counters()]
        if dead:
            raise RuntimeError(f"{', '.join(dead)} ended after {len(seen)} line(s) of history")
        if time.monotonic() > deadline:
            raise RuntimeError(f"no end within {timeout_s:g} s, {len(seen)} line(s) of history")
        time.sleep(POLL_S)


def run_federation(args: argparse.Namespace, folder: Path) -> tuple[list[Counters], list[Any]]:
    """Run it; return the counters of :func:`watch` and the lines of the history."""
    paths = prepare(folder, args.features, args.patients)
    config: dict[str, bool | int | float | str] = {
        "features": args.features,
        "rank": max(RANKS.values()),
        "ranks": ",".join(f"{site}={rank}" for site, rank in RANKS.items()),
        "image-size": 32,
        "spacing-mm": 8.0,
        "augment": False,
        "device": "cpu",
        "threads": 1,
        "rounds": args.rounds + 1,  # the final test follows the last one, which is not measured
        "sites": len(RANKS),
        "min-sites": len(RANKS),
        "round-timeout-s": 600,
        "base-model": str(paths["base"]),
        "run-dir": str(paths["run"]),
        "cache-dir": str(folder / "cache"),
    }
    with ExitStack() as stack:
        stack.enter_context(namespace(frames=not args.large_packets))
        running = stack.enter_context(processes(folder))
        fleet, control = start_superlink(running, WIRE.host)
        for site in RANKS:
            node = {"site": site, "data-dir": str(paths["data"]), "base-model": str(paths["base"])}
            measured = WIRE.name if site == args.site else ""
            start_supernode(running, f"{WIRE.host}:{fleet}", node, namespace=measured)
        start_run(running, control, paths["app"], config)
        try:
            counters = watch(running, paths["run"], args.rounds + 1, args.timeout)
        except RuntimeError:
            for log in sorted(folder.glob("*.log")):
                tail = log.read_text("utf-8", "replace").splitlines()[-15:]
                print(f"--- {log.name}", *tail, sep="\n", file=sys.stderr)
            raise
    text = (paths["run"] / "history.jsonl").read_text("utf-8")
    history = [json.loads(line) for line in text.splitlines()]
    if refused := [one for line in history for one in line["refused"]]:
        raise RuntimeError(f"not all sites took part in every round: {refused[0]}")
    return counters, history


def compare(
    counters: Sequence[Counters], history: Sequence[Any], site: str
) -> list[dict[str, Any]]:
    """Return a row a round from 1 on, and one for all of them together."""
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
    options.add_argument("--site", default="GE", choices=sorted(RANKS), help="who is measured")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--features", default=PAPER, help="channels of the U-Net")
    options.add_argument("--patients", type=int, default=3, help="of each site")
    options.add_argument(
        "--large-packets", action="store_true", help="let the kernel pass 64 KiB as one packet"
    )
    options.add_argument("--timeout", type=float, default=1800, help="seconds for the whole run")
    options.add_argument("--keep", type=Path, metavar="DIR", help="keep logs and run here (new)")
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
