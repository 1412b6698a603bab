"""A run from its configuration to its summary."""

from dataclasses import replace
from logging import INFO

from flwr.common import log
from flwr.serverapp import Grid
from rich.console import Console

from common import lora
from common.config import RunConfig
from common.flower_private import RunNotRunningException
from common.model import file_sha256, load_base, skeleton, weight_bytes
from common.weights import Parameters, Weights
from server_app.curves import plot_rounds
from server_app.events import EventWriter
from server_app.run_dir import RunDir
from server_app.status import StatusFile
from server_app.summary import print_summary, summarise
from strategies.aggregation import Shapes
from strategies.ranks import highest_rank
from strategies.rate_my_lora import RateMyLoRA
from strategies.state import RoundRecord, RunState


def run(grid: Grid, config: RunConfig) -> None:
    """Run the federation and leave its files in ``run-dir``.

    Raises
    ------
    UserError
        The configuration, the base file or too many sites are at fault.
    """
    config = _with_fingerprint(config)
    folder = RunDir(config.path(config.run_dir))
    initial = _initial(config)
    state = folder.begin(config, RunState(initial))
    if state.server_round:
        log(INFO, "resuming after round %d from %s", state.server_round, folder.path)

    status = StatusFile(folder.status, config.method.rounds)
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


def _initial(config: RunConfig) -> Parameters:
    """Return what a run starts from: random A and zero B, or the weights of the base file."""
    if config.method.trains == "weights":
        return Weights()
    shapes = lora.layer_shapes(skeleton(config.model.channels()))
    return lora.drawn_adapter(config, shapes, highest_rank(config.model.ranks, config.model.rank))


def _federate(
    grid: Grid, config: RunConfig, folder: RunDir, state: RunState, status: StatusFile
) -> None:
    """Run the rounds that are left and the final test."""
    model = skeleton(config.model.channels())
    events = None
    if config.tensorboard:
        events = EventWriter(folder.tensorboard, state.server_round + 1)

    def on_round(state: RunState, record: RoundRecord) -> None:
        folder.save_updates(
            record.server_round,
            {site: update.parameters for site, update in strategy.round.updates.items()},
            keep=config.keep_updates if config.method.sends == "all" else "none",
        )
        folder.save_round(state, record)
        plot_rounds(folder.read_history(), folder.plot)
        if events is not None:
            events.add_round(record.to_json())

    strategy = RateMyLoRA(config, Shapes.of(model), state, on_round, status.phase)
    method = config.method
    strategy.start(
        grid,
        strategy.arrays(),
        num_rounds=method.rounds,
        timeout=method.round_timeout_s,
    )
    if method.sends == "all":
        folder.save_result(state, config.model.alpha_per_rank, strategy.exchange.roster.base_sha256)
    scores = strategy.test(grid)
    summary = summarise(
        config.preset or "rate-my-lora",
        folder.read_history(),
        scores,
        weight_bytes(model),
        strategy.exchange.record.refused,
    )
    folder.write_summary(summary)
    print_summary(summary, Console(highlight=False, width=110))


def _with_fingerprint(config: RunConfig) -> RunConfig:
    """Check the server's own base file, where it has one, and ask its fingerprint of all sites."""
    if not config.base_model:
        return config
    path = config.path(config.base_model)
    load_base(path, config.model.channels(), sha256=config.base_sha256)
    return replace(config, base_sha256=file_sha256(path))
