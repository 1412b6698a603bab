"""A soak on real processes: hostile replies, then random kills and cuts too, for half an hour.

A SuperLink and SuperNodes with TLS and registered keys, all on this machine. Three runs:

alone    the honest sites alone
hostile  with one more node that holds a key and answers as :mod:`benchmarks.hostile` does; the
         adapter must be that of the first run, to the last bit
chaos    the hostile node goes on, and at random a site is killed and started again, or its line
         is cut; the run must end, and every site that is not in a merge must be on record
"""

import random
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.federation import LOOPBACK
from benchmarks.hostile import NAME
from benchmarks.processes import clean_up_when_told_to_end, free_ports
from benchmarks.relay import relay
from benchmarks.shared import parser, publish
from cardiac.phantom import write_mnms2
from common.adapter import load_adapter
from common.model import build_unet, file_sha256, save_base
from common.options import Value
from server_app.status import FINISHED, read_status
from tests.network.world import Federation, federation, refusals, took_part

VENDOR = "SIEMENS"
FEATURES = (4, 4, 8, 8, 8, 4)
PATIENTS = 6
ROUND_TIMEOUT_S = 60
PAUSE_S = (5.0, 25.0)
"""Shortest and longest time between two faults."""
AWAY_S = (1.0, 20.0)
"""Shortest and longest time that a line is cut, or a killed site is away."""


class Cable:
    """The line of a site to the SuperLink, which can be cut."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.here = (LOOPBACK, free_ports(1)[0])
        self.stack = ExitStack()
        self.mend()

    def mend(self) -> None:
        """Let connections through."""
        self.stack.enter_context(relay(self.here, self.target))

    def cut(self) -> None:
        """End all connections, and take no more."""
        self.stack.close()


class Soak:
    """The processes, and what their runs came to."""

    def __init__(self, hospitals: Federation, folder: Path, sites: int, seed: int) -> None:
        self.hospitals, self.folder = hospitals, folder
        self.random = random.Random(seed)  # noqa: S311
        self.base = folder / "base.safetensors"
        torch.manual_seed(seed)
        save_base(build_unet(FEATURES), self.base)
        self.cables: dict[str, Cable] = {}
        for number in range(sites):
            self.add_site(f"Site {number + 1}", number)

    def add_site(self, name: str, seed: int) -> None:
        """Write a hospital's patients and let it join, by a line of its own."""
        data = self.folder / f"data-{seed}"
        write_mnms2(data, seed=seed, patients={VENDOR: PATIENTS})
        table = data / "mnms2" / "dataset_information.csv"
        table.write_text(table.read_text("utf-8").replace(VENDOR, name), "utf-8")
        self.cables[name] = cable = Cable((LOOPBACK, self.hospitals.ports[0]))
        place = f"{cable.here[0]}:{cable.here[1]}"
        self.hospitals.join(name, data / "mnms2", self.base, superlink=place)

    def add_hostile(self) -> None:
        """Start the hostile node."""
        key = self.hospitals.key(NAME)
        self.hospitals.register(key)
        command = ["python", "-m", "benchmarks.hostile", self.hospitals.superlink()]
        command += [str(self.hospitals.tls.root), str(key), file_sha256(self.base)]
        here = {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        self.hospitals.running.start(NAME, command, environment=here)
        self.hospitals.wait(
            lambda: "connected" in self.hospitals.running.log(NAME), "the hostile node"
        )

    def start(self, run: str, sites: int, rounds: int) -> Path:
        """Start a run that waits for so many sites."""
        run_dir = self.folder / run
        keys: dict[str, Value] = {
            "run-dir": str(run_dir),
            "features": ",".join(map(str, FEATURES)),
            "rank": 4,
            "ranks": "equal",
            "image-size": 32,
            "spacing-mm": 5.0,
            "rounds": rounds,
            "sites": sites,
            "min-sites": 1,
            "round-timeout-s": ROUND_TIMEOUT_S,
        }
        self.hospitals.start_run(keys)
        return run_dir

    def fault(self) -> str:
        """Kill a site or cut its line, and put it right after a while; return what was done."""
        site = self.random.choice(list(self.cables))
        away = self.random.uniform(*AWAY_S)
        if self.random.random() < 0.5:
            self.hospitals.running.kill(site)
            time.sleep(away)
            self.hospitals.rejoin(site)
            return f"killed {site}, back after {away:.0f} s"
        self.cables[site].cut()
        time.sleep(away)
        self.cables[site].mend()
        return f"cut the line of {site} for {away:.0f} s"

    def close(self) -> None:
        """Cut every line."""
        for cable in self.cables.values():
            cable.cut()


@contextmanager
def soak(folder: Path, sites: int, seed: int) -> Iterator[Soak]:
    """Yield the federation, and end all of it with the block."""
    with federation(folder / "processes") as hospitals:
        made = Soak(hospitals, folder, sites, seed)
        try:
            yield made
        finally:
            made.close()


def unrecorded(history: list[dict[str, Any]], sites: set[str]) -> list[str]:
    """Return the sites that are missing from a round's merge without a word in the history."""
    return [
        f"round {line['round']}: {site}"
        for line in history
        if line["round"]
        for site in sorted(sites - took_part(line))
        if not refusals(line, site)
    ]


def same_adapter(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same adapter, to the last bit."""
    left, right = (load_adapter(run / "adapter.safetensors")[0].tensors() for run in (one, other))
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


def play(made: Soak, minutes: float, rounds: int) -> dict[str, Any]:
    """Play the three runs; return what was found."""
    hospitals, begun = made.hospitals, time.monotonic()
    sites = len(made.cables)
    limit = minutes * 60
    alone = made.start("alone", sites, rounds)
    hospitals.wait_for_end(alone, limit)
    per_round = (time.monotonic() - begun) / rounds
    print(f"alone: {time.monotonic() - begun:.0f} s for {rounds} rounds", flush=True)

    made.add_hostile()
    hostile = made.start("hostile", sites + 1, rounds)
    history = hospitals.wait_for_end(hostile, limit)
    print(f"hostile: ended {time.monotonic() - begun:.0f} s after the begin", flush=True)
    refused = [one for line in history for one in line["refused"]]

    left = limit - (time.monotonic() - begun)
    more = max(3, int(left / (2 * per_round)))
    chaos = made.start("chaos", sites + 1, more)
    faults = []
    running = hospitals.running.running["run"]
    status = chaos / "status.json"
    hospitals.wait(lambda: bool((found := read_status(status)) and found.round), "round 1", 600)
    while running.poll() is None and time.monotonic() - begun < limit:
        faults.append(made.fault())
        print(f"{time.monotonic() - begun:5.0f} s: {faults[-1]}", flush=True)
        time.sleep(made.random.uniform(*PAUSE_S))
    last = hospitals.wait_for_end(chaos, 3600)
    ended = read_status(status)
    return {
        "sites": sites,
        "minutes": (time.monotonic() - begun) / 60,
        "rounds": {"alone": rounds, "hostile": rounds, "chaos": more},
        "same adapter": same_adapter(alone, hostile),
        "ways": hospitals.running.log(NAME).count(": "),
        "refused of the hostile node": sum(one["site"] == NAME for one in refused),
        "refused of others beside it": sum(one["site"] != NAME for one in refused),
        "faults": len(faults),
        "ended": bool(ended and ended.state == FINISHED),
        "refused under faults": sum(len(line["refused"]) for line in last),
        "unrecorded": unrecorded(history + last, set(made.cables)),
    }


def faults_of(found: Mapping[str, Any]) -> list[str]:
    """Return what is not as it must be."""
    wrong = [key for key in ("same adapter", "ended") if not found[key]]
    wrong += ["the hostile node was never refused"] * (not found["refused of the hostile node"])
    wrong += ["others were refused"] * bool(found["refused of others beside it"])
    return wrong + list(found["unrecorded"])


def main() -> None:
    """Play it, print what came of it, and fail where something is not as it must be."""
    options = parser(__doc__)
    options.add_argument("--minutes", type=float, default=30)
    options.add_argument("--sites", type=int, default=5, help="honest ones")
    options.add_argument("--rounds", type=int, default=8, help="of the first two runs")
    options.add_argument("--seed", type=int, default=0, help="of patients and faults")
    asked = options.parse_args()
    clean_up_when_told_to_end()
    with (
        tempfile.TemporaryDirectory(prefix="rate-my-lora-soak-") as folder,
        soak(Path(folder), asked.sites, asked.seed) as made,
    ):
        found = play(made, asked.minutes, asked.rounds)
    rows = [(key, str(value)) for key, value in found.items()]
    publish("soak", ["what", "found"], rows, found, asked.json)
    if wrong := faults_of(found):
        raise SystemExit(f"not withstood: {wrong}")


if __name__ == "__main__":
    main()
