"""Hospitals as real processes on this machine: TLS, registered keys, ``rate-my-lora join``."""

import csv
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.federation import (
    LOOPBACK,
    Tls,
    control_api,
    join,
    register,
    start_run,
    start_superlink,
)
from benchmarks.flower_private import ListRunsRequest, UnregisterNodeRequest
from benchmarks.processes import Processes, processes
from benchmarks.shared import copy_app
from common.certificates import make_site_key
from common.options import Value
from tests.test_simulation import read_history

POLL_S = 0.05
LONG_S = 240.0
"""Longest wait for anything, enough for a busy machine."""


class Federation:
    """A SuperLink and what is told to connect to it.

    Parameters
    ----------
    running
        The processes.
    hosts
        Addresses that the SuperLink is reached at.
    """

    def __init__(self, running: Processes, *hosts: str) -> None:
        self.running = running
        self.folder = running.folder
        self.tls = Tls.create(self.folder / "tls", LOOPBACK, *hosts)
        self.ports = start_superlink(running, "0.0.0.0", tls=self.tls)  # noqa: S104
        self.app = copy_app(self.folder / "app")

    def restart_superlink(self) -> None:
        """Start the killed SuperLink again, on its database."""
        start_superlink(self.running, "0.0.0.0", tls=self.tls, ports=self.ports)  # noqa: S104

    def superlink(self, host: str = LOOPBACK) -> str:
        """Return the address for SuperNodes."""
        return f"{host}:{self.ports[0]}"

    def key(self, name: str) -> Path:
        """Make a site's private key."""
        path = self.folder / f"{name}.key"
        make_site_key(path)
        return path

    def register(self, key: Path) -> int:
        """Register a key; return the node's id."""
        return register(self.ports[1], self.tls, key)

    def unregister(self, node: int) -> None:
        """Withdraw a registration, as ``flwr supernode unregister`` does."""
        with control_api(self.ports[1], self.tls) as control:
            control.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def run_details(self) -> list[tuple[str, str]]:
        """Return (sub-status, details) of every run, the oldest first, as ``flwr ls`` has them."""
        with control_api(self.ports[1], self.tls) as control:
            runs = control.ListRuns(ListRunsRequest()).run_dict.values()
        ordered = sorted(runs, key=lambda run: run.pending_at)
        return [(run.status.sub_status, run.status.details) for run in ordered]

    def join(
        self,
        site: str,
        data: Path,
        base: Path,
        *,
        host: str = LOOPBACK,
        namespace: str = "",
        environment: Mapping[str, str] | None = None,
        **limits: Value,
    ) -> None:
        """Register a site and start ``rate-my-lora join`` for it."""
        settings: dict[str, Value] = {
            "superlink": self.superlink(host),
            "site": site,
            "data-dir": str(data),
            "base-model": str(base),
            "audit-log": str(self.audit_log(site)),
            **{name.replace("_", "-"): value for name, value in limits.items()},
        }
        control, tls = self.ports[1], self.tls
        join(self.running, control, tls, settings, namespace=namespace, environment=environment)

    def leave(self, *sites: str) -> None:
        """End sites with SIGTERM, as a hospital does; a run waits a minute for a killed one."""
        leaving = [self.running.running[site] for site in sites]
        for process in leaving:
            process.terminate()
        self.wait(lambda: all(one.poll() is not None for one in leaving), f"the leave of {sites}")

    def rejoin(self, site: str) -> None:
        """Start a site that was killed with the very same file."""
        command = ["rate-my-lora", "join", str(self.folder / f"{site}.toml")]
        self.running.start(site, command)

    def audit_log(self, site: str) -> Path:
        """Return the path of a site's audit log."""
        return self.folder / f"{site}.audit.jsonl"

    def audited(self, site: str) -> list[dict[str, Any]]:
        """Return the lines of a site's audit log so far."""
        path = self.audit_log(site)
        lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def handled(self, site: str, kind: str, server_round: int, direction: str) -> bool:
        """Tell whether a site's audit log has a message of this kind, round and direction."""
        wanted = (kind, server_round, direction)
        return any(
            (line["kind"], line["round"], line["direction"]) == wanted
            for line in self.audited(site)
        )

    def start_run(self, config: Mapping[str, Value]) -> None:
        """Start ``flwr run``."""
        if "run" in self.running.running:
            self.running.kill("run")
        start_run(self.running, self.ports[1], self.app, config, tls=self.tls)

    def wait(self, until: Callable[[], bool], what: str, limit_s: float = LONG_S) -> None:
        """Wait until a condition holds; fail after ``limit_s``."""
        deadline = time.monotonic() + limit_s
        while not until():
            assert time.monotonic() < deadline, f"{what}: not within {limit_s:g} s\n{self.logs()}"
            time.sleep(POLL_S)

    def wait_for_end(self, run_dir: Path, limit_s: float = LONG_S) -> list[dict[str, Any]]:
        """Wait for the end of ``flwr run``; return the history."""
        run = self.running.running["run"]
        self.wait(lambda: run.poll() is not None, "the end of the run", limit_s)
        assert (run_dir / "summary.json").is_file(), self.logs()
        return read_history(run_dir)

    def logs(self) -> str:
        """Return the last lines of every process."""
        return "\n".join(
            f"--- {name}\n" + "\n".join(self.running.log(name).splitlines()[-12:])
            for name in self.running.running
        )


@contextmanager
def federation(folder: Path, *hosts: str) -> Iterator[Federation]:
    """Yield a federation and end all its processes with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with processes(folder) as running:
        yield Federation(running, *hosts)
    assert not still_there(running)


def still_there(running: Processes) -> list[str]:
    """Return the processes that have outlived their federation, other than as zombies."""
    groups = {process.pid for process in running.running.values()}
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended since it was listed
            name, _, rest = path.read_text().rpartition(")")
            state, _, group = rest.split()[:3]
            if int(group) in groups and state != "Z":
                found.append(name)
    return found


def copy_site(site_data: Path, folder: Path, name: str) -> Path:
    """Make a data folder with the smallest site's patients, for a site with another name."""
    source = site_data / "mnms2"
    with (source / "dataset_information.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["VENDOR"] == "GE MEDICAL SYSTEMS"]
    data = folder / f"data-{name}"
    data.mkdir()
    (data / "dataset").symlink_to(source / "dataset")
    with (data / "dataset_information.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "VENDOR": name} for row in rows)
    return data


def refusals(line: Mapping[str, Any], site: str) -> dict[str, str]:
    """Return the reasons by phase why a site was left out in a round."""
    return {one["phase"]: one["reason"] for one in line["refused"] if one["site"] == site}


def took_part(line: Mapping[str, Any]) -> set[str]:
    """Return the sites whose adapters are in a round's merge."""
    return {name for name, entry in line["sites"].items() if "penalty" in entry}
