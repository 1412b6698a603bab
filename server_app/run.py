"""A run from its configuration to its summary."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from logging import INFO, WARNING
from pathlib import Path

from flwr.common import log
from flwr.serverapp import Grid
from rich.console import Console

from common import lora
from common.config import RunConfig
from common.flower_private import RunNotRunningException
from common.model import file_sha256, load_base, skeleton, weight_bytes
from common.text import clean
from server_app.curves import plot_rounds
from server_app.events import EventWriter
from server_app.run_dir import RunDir, settings_of
from server_app.status import StatusFile
from server_app.summary import print_summary, summarise
from strategies.rate_my_lora import RateMyLoRA
from strategies.state import RoundRecord, RunState


def run(grid: Grid, config: RunConfig) -> None:
    """Run the federation and write its files to ``run-dir``.

    Raises
    ------
    UserError
        The configuration or the base file is wrong, or too many sites failed.
    """
    config = _with_fingerprint(config)
    folder = RunDir(config.path(config.run_dir))
    with folder.locked():
        _run_in(folder, grid, config)


def _run_in(folder: RunDir, grid: Grid, config: RunConfig) -> None:
    """Run the federation in a folder that is locked."""
    model = skeleton(config.model.channels())
    state = folder.begin(config, RunState.initial(config, lora.layer_shapes(model)))
    if state.server_round:
        log(INFO, "resuming after round %d from %s", state.server_round, folder.path)

    status = StatusFile(
        folder.status,
        config.federation.rounds,
        saved=folder.saved,
        run=state.run_id,
        settings=settings_of(config),
    )
    try:
        _federate(grid, config, folder, state, status)
    except (SystemExit, KeyboardInterrupt, RunNotRunningException):
        status.stop()
        raise
    except BaseException as error:
        status.fail(error)
        raise
    status.finish()
    log(INFO, "history, adapter, summary and plot are in %s", folder.path)


def _federate(
    grid: Grid, config: RunConfig, folder: RunDir, state: RunState, status: StatusFile
) -> None:
    """Run the remaining rounds and the final test."""
    start = state.server_round + 1
    events = EventWriter(folder.tensorboard, start) if config.tensorboard else None

    def on_round(state: RunState, record: RoundRecord) -> None:
        folder.save_updates(
            record.server_round,
            {site: update.parameters for site, update in strategy.round.updates.items()},
            keep=config.keep_updates if config.method.sends == "all" else "none",
        )
        folder.save_round(state, record)
        status.save()
        with by_product(folder.plot):
            plot_rounds(folder.read_history(), folder.plot)
        if events is not None:
            with by_product(folder.tensorboard):
                events.add_round(record.to_json())

    strategy = RateMyLoRA(config, state=state, on_round=on_round, on_phase=status.phase)
    strategy.exchange.roster.on_wait = status.wait
    strategy.start(grid)
    if config.method.sends == "all":
        folder.save_result(state, config.model.alpha_per_rank, strategy.exchange.roster.base_sha256)
    scores = strategy.test(grid)
    with by_product(folder.summary):
        summary = summarise(
            config.preset or "rate-my-lora",
            folder.read_history(),
            scores,
            weight_bytes(skeleton(config.model.channels())),
            strategy.exchange.record.refused,
        )
        folder.write_summary(summary)
        print_summary(summary, Console(highlight=False, markup=False, emoji=False, width=110))


@contextmanager
def by_product(path: Path) -> Iterator[None]:
    """Make of an error a warning that names a file which the run can do without."""
    try:
        yield
    except Exception as error:
        log(WARNING, "%s is not written: %s: %s", path, type(error).__name__, clean(error))


def _with_fingerprint(config: RunConfig) -> RunConfig:
    """Check the server's own base file, if it has one, and require its SHA-256 of all sites."""
    if not config.base_model:
        return config
    path = config.path(config.base_model)
    load_base(path, config.model.channels(), sha256=config.base_sha256)
    return replace(config, base_sha256=file_sha256(path))
