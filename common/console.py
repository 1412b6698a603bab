"""The console that every command prints to."""

from rich.console import Console

console = Console(highlight=False, markup=False, soft_wrap=True)
