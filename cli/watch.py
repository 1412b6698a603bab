"""``rate-my-lora watch``: a run as it goes on, from the files it leaves."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from common.console import console
from common.errors import UserError
from server_app.run_dir import RunDir
from server_app.status import FAILED, FINISHED, RUNNING, STOPPED, Status, read_status

RESUME = "resume=true goes on from the last finished round"
HINTS = {"gather": "waiting for sites", "rate base": "sites rate the base model"}


@dataclass(frozen=True)
class Snapshot:
    """What a run's files say at a moment.

    Attributes
    ----------
    status
        None before the run has begun.
    history
        Lines of ``history.jsonl``.
    now
        Unix time.
    damage
        What is wrong with a file that cannot be read; empty where all is well.
    """

    status: Status | None
    history: list[dict[str, Any]]
    now: float
    damage: str = ""

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.status is not None and (self.status.state != RUNNING or self.status.killed())

    def seconds_left(self) -> float | None:
        """Estimate the time to the last round's end from the rounds so far; None before any."""
        rounds = [line for line in self.history if line["round"] > 0]
        lengths: list[float] = [sum(line["seconds"].values()) for line in rounds]
        if not lengths or self.status is None or self.status.state != RUNNING:
            return None
        left: int = self.status.rounds - self.history[-1]["round"]
        mean = sum(lengths) / len(lengths)
        gone = self.now - self.status.since if self.status.phase == "train" else 0.0
        return max(0.0, left * mean - min(gone, mean))


def take_snapshot(run_dir: Path) -> Snapshot:
    """Read a run's files."""
    folder = RunDir(run_dir)
    status, damage = None, ""
    try:
        history = folder.read_history()
    except (OSError, ValueError):  # being written anew by a resumed run
        history = []
    if not all(map(_is_round, history)):
        history, damage = [], f"{folder.history}: a line is not a round's"
    try:
        status = read_status(folder.status)
    except UserError as error:
        damage = str(error)
    return Snapshot(status, history, time.time(), damage)


def _is_round(line: object) -> bool:
    return (
        isinstance(line, dict)
        and isinstance(line.get("round"), int)
        and isinstance(line.get("lambda"), int | float)
        and isinstance(line.get("refused"), list)
        and all(isinstance(line.get(key), dict) for key in ("sites", "seconds"))
    )


def headline(snapshot: Snapshot) -> str:
    """Say in a line where the run stands."""
    status = snapshot.status
    if status is None:
        return f"{snapshot.damage or 'no run here yet'}, waiting"
    if status.state == FINISHED:
        return f"finished: {status.rounds} rounds in {_span(status.since - status.started)}"
    if status.state == FAILED:
        return f"failed in round {status.round}: {status.error}"
    if status.state == STOPPED:
        return f"stopped in round {status.round}; {RESUME}"
    if status.killed():
        return f"killed in round {status.round}; {RESUME}"
    phase = HINTS.get(status.phase, status.phase)
    where = f"round {status.round}/{status.rounds}" if status.round else "before round 1"
    left = snapshot.seconds_left()
    parts = [where, f"{phase} for {_span(snapshot.now - status.since)}"]
    if left is not None:
        parts.append(f"about {_span(left)} left")
    if snapshot.damage:
        parts.append(snapshot.damage)
    return " · ".join(parts)


def site_table(history: list[dict[str, Any]]) -> Table:
    """Return a row a site: its last round and its traffic so far."""
    table = Table(box=None, pad_edge=False)
    table.add_column("site")
    for name in (
        "round",
        "rank",
        "slices",
        "loss",
        "Dice",
        "change",
        "penalty",
        "up MiB",
        "down MiB",
    ):
        table.add_column(name, justify="right")
    for site in sorted({site for line in history for site in line["sites"]}):
        lines = [line for line in history if site in line["sites"]]
        entry = lines[-1]["sites"][site]
        dice, before = entry.get("validation"), entry.get("previous")
        known = None not in (dice, before)
        table.add_row(
            Text(site),
            str(lines[-1]["round"]),
            str(entry.get("rank", "")),
            str(entry.get("examples", "")),
            _number(entry.get("loss"), ".3f"),
            _number(dice, ".4f"),
            _number(dice - before, "+.4f") if known else "",
            _number(entry.get("penalty"), ".3f"),
            *(_mib(sum(line["sites"][site].get(k, 0) for line in lines)) for k in BYTES),
        )
    return table


BYTES = ("bytes_up", "bytes_down")


def refusals(history: list[dict[str, Any]]) -> list[str]:
    """Return a line for everything that was left out, newest first."""
    return [
        f"round {line['round']}: {r['site']} left out of {r['phase']}: {r['reason']}"
        for line in reversed(history)
        for r in line["refused"]
    ]


def view(snapshot: Snapshot, run_dir: Path) -> RenderableType:
    """Return what a terminal shows."""
    parts: list[RenderableType] = [Text(f"{run_dir}: {headline(snapshot)}", style="bold")]
    if snapshot.history:
        last = snapshot.history[-1]
        parts += [
            site_table(snapshot.history),
            Text(f"λ of round {last['round']}: {last['lambda']:.4g}"),
        ]
        parts += [Text(line, style="yellow") for line in refusals(snapshot.history)[:5]]
    return Group(*parts)


def round_line(line: Mapping[str, Any]) -> str:
    """Say in a line what a round gave."""
    sites = []
    for site, entry in line["sites"].items():
        penalty = entry.get("penalty")
        note = f" (penalty {penalty:.3g})" if penalty not in (None, 1) else ""
        sites.append(f"{site} {_number(entry.get('validation'), '.4f') or 'silent'}{note}")
    left_out = "".join(f"; {text.split(': ', 1)[1]}" for text in refusals([dict(line)]))
    name = f"round {line['round']}" if line["round"] else "base"
    return f"{name}: validation Dice {', '.join(sites)}{left_out}"


def follow(run_dir: Path, out: Console, every_s: float) -> Snapshot:
    """Show a run until it is over; a live table in a terminal, lines elsewhere."""
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
        current = (status and (status.phase, status.round), snapshot.damage)
        if current != last or snapshot.over:
            last = current
            out.print(headline(snapshot))
        if snapshot.over:
            return snapshot
        time.sleep(every_s)


def watch(
    run_dir: Annotated[Path, typer.Argument(help="Folder of the run.")] = Path("runs/latest"),
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between looks.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Look once and leave.")] = False,
) -> None:
    """Show a run as it goes on; ends with it, with status 1 if it failed."""
    if once:
        snapshot = take_snapshot(run_dir)
        if snapshot.damage:
            raise UserError(snapshot.damage)
        if snapshot.status is None and not snapshot.history:
            raise UserError(f"{run_dir}: no run here, expected a folder with status.json")
        console.print(view(snapshot, run_dir))
    else:
        try:
            snapshot = follow(run_dir, console, every)
        except KeyboardInterrupt:
            return
    if snapshot.over and snapshot.status is not None and snapshot.status.state != FINISHED:
        raise typer.Exit(1)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _mib(count: int) -> str:
    return f"{count / 2**20:.2f}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
