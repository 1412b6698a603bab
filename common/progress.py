"""Progress of long work: a bar in a terminal, a line every 15 seconds elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[[str, int, int, float], None]
"""Called with the name of the work, steps done, steps in all, and the loss or 0."""

LINE_EVERY_S = 15.0


@contextmanager
def progress(console: Console) -> Iterator[Advance]:
    """Yield the function that long work calls to show its progress."""
    if not console.is_terminal:
        yield _plain_lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bars:
        tasks = {}

        def advance(what: str, done: int, total: int, loss: float) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total, note="")
            note = f"loss {loss:.3f}" if loss else ""
            bars.update(tasks[what], completed=done, note=note)

        yield advance


def _plain_lines(console: Console) -> Advance:
    last = 0.0

    def advance(what: str, done: int, total: int, loss: float) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or done == total:
            last = now
            note = f", loss {loss:.3f}" if loss else ""
            console.print(f"{what}: {done}/{total}{note}", highlight=False)

    return advance
