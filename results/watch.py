"""Shows a running run in the terminal, from the files that it writes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.errors import UserError
from common.text import NAME_LENGTH, clean, clock
from results.run_reader import read_history
from server_app.history import Line, sites_of
from server_app.run_dir import RunDir
from server_app.status import ERROR_LENGTH, FAILED, FINISHED, RUNNING, STOPPED, Status, read_status

RESUME = "resume=true goes on from the last finished round"
HEAD = ("round", "rank", "slices", "loss", "Dice", "change", "penalty", "up MiB", "down MiB")
HINTS = {"gather": "waiting for sites", "rate base": "sites rate the base model"}


@dataclass(frozen=True)
class Snapshot:
    """What a run's files said at one moment."""

    status: Status | None
    """Where the run stands; None before it has begun."""
    history: Sequence[Line]
    """Lines of ``history.jsonl``."""
    now: float
    """The moment, in Unix time (s)."""
    damage: str = ""
    """What is wrong with a file that cannot be read; empty where every file can be."""

    @property
    def over(self) -> bool:
        """Whether the run has ended, well or not."""
        return self.status is not None and (self.status.state != RUNNING or self.status.killed())

    @property
    def failed(self) -> bool:
        """Whether the run ended before its last round."""
        return self.over and self.status is not None and self.status.state != FINISHED

    def seconds_left(self) -> float | None:
        """Estimate the seconds to the last round's end from the rounds so far; None before any."""
        rounds = [line for line in self.history if line["round"] > 0]
        lengths: list[float] = [sum(line["seconds"].values()) for line in rounds]
        if not lengths or self.status is None or self.status.state != RUNNING:
            return None
        left: int = self.status.rounds - self.history[-1]["round"]
        mean = sum(lengths) / len(lengths)
        gone = self.now - self.status.since if self.status.phase == "train" else 0.0
        return max(0.0, left * mean - min(gone, mean))


def take_snapshot(run_dir: Path) -> Snapshot:
    """Read a run's status and history; a file that cannot be read becomes ``damage``."""
    folder = RunDir(run_dir)
    history: Sequence[Line] = []
    status, damage = None, ""
    try:
        status = read_status(folder.status)
    except UserError as error:
        damage = str(error)
    try:
        if status is None or status.saved:
            history = read_history(folder)
    except UserError as error:
        damage = damage or str(error)
    return Snapshot(status, history, time.time(), clean(damage, ERROR_LENGTH))


def headline(snapshot: Snapshot) -> str:
    """Return one line that says where the run stands."""
    status = snapshot.status
    if status is None:
        return f"{snapshot.damage or 'no run here yet'}, waiting"
    if status.state == FINISHED:
        return f"finished: {status.rounds} rounds in {clock(status.since - status.started)}"
    if status.state == FAILED:
        return f"failed in round {status.round}: {clean(status.error, ERROR_LENGTH)}"
    if status.state == STOPPED:
        return f"stopped in round {status.round}; {RESUME}"
    if status.killed():
        return f"killed in round {status.round}; {RESUME}"
    phase = HINTS.get(status.phase, status.phase)
    if status.phase == "gather" and status.waiting:
        phase = f"waiting for approval by {', '.join(map(clean, status.waiting))}"
    where = f"round {status.round}/{status.rounds}" if status.round else "before round 1"
    left = snapshot.seconds_left()
    parts = [where, f"{phase} for {clock(snapshot.now - status.since)}"]
    if left is not None:
        parts.append(f"about {clock(left)} left")
    if snapshot.damage:
        parts.append(snapshot.damage)
    return " · ".join(parts)


def site_table(history: Sequence[Line]) -> Table:
    """Return a table with each site's last round and its traffic so far, one row a site."""
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    for name in HEAD:
        table.add_column(name, justify="right")
    for site in sites_of(history):
        lines = [line for line in history if site in line["sites"]]
        entry = lines[-1]["sites"][site]
        dice, before = entry.get("validation"), entry.get("previous")
        known = None not in (dice, before)
        table.add_row(
            Text(clean(site, NAME_LENGTH)),
            str(lines[-1]["round"]),
            str(entry.get("rank", "")),
            str(entry.get("examples", "")),
            _number(entry.get("loss"), ".3f"),
            _number(dice, ".4f"),
            _number(dice - before, "+.4f") if known else "",
            _number(entry.get("penalty"), ".3f"),
            *(
                f"{sum(line['sites'][site].get(key, 0) for line in lines) / 2**20:.2f}"
                for key in ("bytes_up", "bytes_down")
            ),
        )
    return table


def refusals(history: Sequence[Line]) -> list[str]:
    """Return one line for every answer that was left out, the newest first."""
    return [
        clean(f"round {line['round']}: {r['site']} left out of {r['phase']}: {r['reason']}")
        for line in reversed(history)
        for r in line["refused"]
    ]


def view(snapshot: Snapshot, run_dir: Path) -> RenderableType:
    """Return what a terminal shows of a run."""
    parts: list[RenderableType] = [Text(f"{run_dir}: {headline(snapshot)}", style="bold")]
    if snapshot.history:
        last = snapshot.history[-1]
        parts += [
            site_table(snapshot.history),
            Text(f"λ of round {last['round']}: {last['lambda']:.4g}"),
        ]
        parts += [Text(line, style="yellow") for line in refusals(snapshot.history)[:5]]
    return Group(*parts)


def round_line(line: Line) -> str:
    """Return one line with each site's validation Dice in a round, and who was left out."""
    sites = []
    for site, entry in line["sites"].items():
        penalty = entry.get("penalty")
        note = f" (penalty {penalty:.3g})" if penalty not in (None, 1) else ""
        name = clean(site, NAME_LENGTH)
        sites.append(f"{name} {_number(entry.get('validation'), '.4f') or 'silent'}{note}")
    left_out = "".join(f"; {text.split(': ', 1)[1]}" for text in refusals([line]))
    name = f"round {line['round']}" if line["round"] else "base"
    return f"{name}: validation Dice {', '.join(sites)}{left_out}"


def follow(run_dir: Path, out: Console, every_s: float) -> Snapshot:
    """Show a run until it is over: as a live table in a terminal, as lines elsewhere."""
    if out.is_terminal:
        with Live(console=out, auto_refresh=False) as live:
            while True:
                snapshot = take_snapshot(run_dir)
                live.update(view(snapshot, run_dir), refresh=True)
                if snapshot.over:
                    return snapshot
                time.sleep(every_s)
    shown, last = 0, object()
    while True:
        snapshot = take_snapshot(run_dir)
        shown = min(shown, len(snapshot.history))  # a new run has begun in the folder
        for line in snapshot.history[shown:]:
            out.print(round_line(line))
        shown = len(snapshot.history)
        status = snapshot.status
        current = (status and (status.phase, status.round, status.waiting), snapshot.damage)
        if current != last or snapshot.over:
            last = current
            out.print(headline(snapshot))
        if snapshot.over:
            return snapshot
        time.sleep(every_s)


def look(run_dir: Path, out: Console) -> Snapshot:
    """Show a run once, as it is now.

    Raises
    ------
    UserError
        The folder holds no run, or a file of the run is broken.
    """
    snapshot = take_snapshot(run_dir)
    if snapshot.damage:
        raise UserError(snapshot.damage)
    if snapshot.status is None and not snapshot.history:
        raise UserError(f"{run_dir}: no run here, expected a folder with status.json")
    out.print(view(snapshot, run_dir))
    return snapshot


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
