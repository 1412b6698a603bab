"""``rate-my-lora superlink``: starts the coordinator's SuperLink."""

import sys
from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import Any

import typer
from flwr.server.app import run_superlink
from flwr.supercore import sql_mixin


def superlink(context: typer.Context) -> None:
    """Start Flower's SuperLink; the options are those of flower-superlink.

    Use this in place of flower-superlink wherever it has a database. Flower 1.26 opens the database
    with the first request. If two requests come at once, as when hospitals return after a restart,
    both can fail; if one of them is from the process that starts runs, no run ever starts.
    """
    migrate = one_at_a_time(sql_mixin.run_migrations)  # type: ignore[attr-defined]
    sql_mixin.run_migrations = migrate  # type: ignore[attr-defined]
    sys.argv[1:] = context.args
    run_superlink()


def one_at_a_time(migrate: Callable[..., None]) -> Callable[..., None]:
    """Return ``migrate`` behind a lock, as Alembic keeps its state in a global."""
    lock = Lock()

    @wraps(migrate)
    def waiting(*args: Any) -> None:
        with lock:
            migrate(*args)

    return waiting
