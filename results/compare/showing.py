"""Shows how far a comparison is: as bars in a terminal, as lines elsewhere."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from common.text import duration
from results.compare.folder import JobFolder
from results.compare.plan import BASE


class Showing:
    """Says which run of how many is at work, how far it is, and how long the rest may take.

    Parameters
    ----------
    console
        Where to say it.
    total
        How many runs the comparison has.
    left
        Those of them that are not done yet.
    jobs
        How many run at a time.
    bars
        The bars of a terminal; None elsewhere.
    """

    def __init__(
        self, console: Console, total: int, left: list[JobFolder], jobs: int, bars: Progress | None
    ) -> None:
        self.console, self.total, self.jobs, self.bars = console, total, jobs, bars
        self.done = done = total - len(left)
        self.long = sum(folder.job.row != BASE for folder in left)  # evaluating a base is quick
        self.numbers: dict[str, int] = {}
        self.said: dict[str, str] = {}
        self.tasks: dict[str, TaskID] = {}
        self.seconds: list[float] = []
        self.all = bars.add_task("runs", total=total, completed=done, note="") if bars else None

    def began(self, folder: JobFolder) -> None:
        """Say that a run begins or goes on."""
        name = folder.job.name
        self.numbers[name] = self.done + len(self.numbers) + 1
        resumed = folder.run.checkpoint.is_file() and not folder.trained()
        self.console.print(self._head(name) + (", goes on" if resumed else ""), highlight=False)
        if self.bars:
            rounds = folder.job.config.federation.rounds
            self.tasks[name] = self.bars.add_task(name, total=rounds, note="")

    def at(self, folder: JobFolder, step: str) -> None:
        """Say which round or step a run is in, unless that was said already."""
        name, status = folder.job.name, folder.status()
        where, rounds = step, 0
        if step == "run":
            rounds = status.round if status and not status.killed() else 0
            where = f"round {rounds} of {status.rounds}" if status and rounds else "begins"
        if self.bars:
            self.bars.update(self.tasks[name], completed=max(0, rounds - 1), note=where)
        elif where not in ("begins", self.said.get(name)):
            self.said[name] = where
            self.console.print(f"{self._head(name)}: {where}")

    def ended(self, folder: JobFolder, seconds: float) -> None:
        """Say how a run ended, and after how many seconds."""
        name = folder.job.name
        if folder.job.row != BASE:
            self.seconds.append(seconds)
        outcome = folder.standing() if folder.failure.is_file() else "done"
        left = self.seconds_left()
        rest = f"; about {duration(left)} left" if left else ""
        self.console.print(f"{self._head(name)}: {outcome} in {duration(seconds)}{rest}")
        if self.bars and self.all is not None:
            self.bars.remove_task(self.tasks.pop(name))
            self.bars.update(self.all, advance=1, note=rest.removeprefix("; "))

    def seconds_left(self) -> float:
        """Estimate the seconds to the end from the runs that have ended; 0 before any has."""
        if not self.seconds:
            return 0.0
        mean = sum(self.seconds) / len(self.seconds)
        return mean * (self.long - len(self.seconds)) / self.jobs

    def _head(self, name: str) -> str:
        return f"run {self.numbers[name]} of {self.total}, {name}"


@contextmanager
def showing(console: Console, total: int, left: list[JobFolder], jobs: int) -> Iterator[Showing]:
    """Yield a :class:`Showing`, with bars where the console is a terminal."""
    if not console.is_terminal:
        yield Showing(console, total, left, jobs, None)
        return
    note = TextColumn("{task.fields[note]}", markup=False)
    name = TextColumn("{task.description}", markup=False)
    with Progress(name, BarColumn(), MofNCompleteColumn(), note, console=console) as bars:
        yield Showing(console, total, left, jobs, bars)
