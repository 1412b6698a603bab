"""``rate-my-lora superlink``: the coordinator's SuperLink."""

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

    Start it so, not as flower-superlink, wherever it has a database: Flower 1.26 opens that with
    the first request, and where two come at once, as when hospitals come back after a restart,
    both can fail. If one is of the process that starts runs, that ends, and no run ever starts.
    """
    migrate = one_at_a_time(sql_mixin.run_migrations)  # type: ignore[attr-defined]
    sql_mixin.run_migrations = migrate  # type: ignore[attr-defined]
    sys.argv[1:] = context.args
    run_superlink()


def one_at_a_time(migrate: Callable[..., None]) -> Callable[..., None]:
    """Let threads wait for one another; Alembic keeps what it is working on in a global."""
    lock = Lock()

    @wraps(migrate)
    def waiting(*args: Any) -> None:
        with lock:
            migrate(*args)

    return waiting
