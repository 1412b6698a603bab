"""Flower's way into a site: messages in, messages out, nothing else."""

from collections.abc import Callable
from dataclasses import replace
from logging import ERROR

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from cardiac.evaluation import Scores
from client_app.assembly import NotHeldError, Order, State, assemble, read_order
from client_app.guard import CANNOT, UNEXPECTED, failure, guard
from client_app.memory import FOLDED, OWN
from client_app.site import Site, open_site
from client_app.site_settings import LimitError, SiteSettings
from common import records
from common.adapter import Adapter, save_adapter, site_file
from common.errors import UserError
from common.weights import Weights

app = ClientApp(mods=[guard])

Handler = Callable[[Site, Order], RecordDict]


def _answer(message: Message, context: Context, handler: Handler) -> Message:
    """Run a handler; what goes wrong is logged here, and the server is told that it did.

    Error texts name files and patients. They leave the process only in a simulation, where the
    server's user is the site's as well.
    """
    simulated = "partition-id" in context.node_config
    try:
        order = read_order(message)
        if order.config.train.threads:
            torch.set_num_threads(order.config.train.threads)
        settings = SiteSettings.from_node(context.node_config)
        settings.check(message.metadata.message_type, order.config, order.rank)
        site = open_site(settings, settings.applied(order.config))
        content = handler(site, order)
    except (LimitError, NotHeldError) as error:
        log(ERROR, "%s", error)
        content = failure(str(error))
    except UserError as error:
        log(ERROR, "%s", error)
        content = failure(str(error) if simulated else CANNOT)
    except Exception as error:
        log(ERROR, "unexpected error", exc_info=error)
        content = failure(f"{UNEXPECTED} ({type(error).__name__})" if simulated else UNEXPECTED)
    return Message(content, reply_to=message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say which site this is, how many cases it has and which base file."""

    def handler(site: Site, order: Order) -> RecordDict:
        if order.config.method.remembers and not order.config.resume:
            site.memory().begin(message.metadata.run_id)
        facts = site.describe()
        who = ConfigRecord({"site": facts.name, "base-sha256": facts.base_sha256})
        counts = {f"{split}-cases": n for split, n in facts.cases.items()}
        if facts.max_rank:
            counts["max-rank"] = facts.max_rank
        metrics = MetricRecord({"train-examples": facts.train_slices, **counts})
        return RecordDict({records.CONFIG: who, records.METRICS: metrics})

    return _answer(message, context, handler)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train what came, keep what the next round needs and send back what the method sends."""

    def handler(site: Site, order: Order) -> RecordDict:
        memory, method = site.memory(), order.config.method
        state = assemble(order, memory)
        if state.parameters is None:
            raise UserError("the training message has no adapter")
        result = site.train(state, order.server_round)
        if state.folded is not None:
            memory.save(FOLDED, state.folds, state.folded)
        metrics: dict[str, int | float] = {
            "num-examples": result.slices,
            "loss": result.loss,
            "seconds": result.seconds,
        }
        if result.start_dice is not None:
            metrics["start-dice"] = result.start_dice
        if result.local_dice is not None:
            metrics["local-dice"] = result.local_dice
        content = RecordDict({records.METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]
        trained = result.parameters
        if isinstance(trained, Weights):
            content[records.ADAPTER] = records.tensors_to_record(trained.tensors())
            return content
        if not method.shares_whole:
            memory.save(OWN, order.server_round, trained.tensors())
        if halves := method.sent_up(order.server_round):
            content[records.ADAPTER] = records.halves_to_record(trained, halves)
        return content

    return _answer(message, context, handler)


@app.evaluate()
def validate(message: Message, context: Context) -> Message:
    """Report P, the mean Dice on the validation patients, of what came or of the base alone."""

    def handler(site: Site, order: Order) -> RecordDict:
        state = assemble(order, site.memory())
        scores = site.score(state, "val")
        metrics = {"dice": scores.mean_dice, "num-examples": scores.cases}
        for number, other in enumerate(state.others, start=1):
            found = site.score(replace(state, parameters=other), "val")
            metrics[f"dice-{number}"] = found.mean_dice
        return RecordDict({records.METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]

    return _answer(message, context, handler)


@app.evaluate("test")
def test(message: Message, context: Context) -> Message:
    """Report the scores of the base and of what came on the test patients."""

    def handler(site: Site, order: Order) -> RecordDict:
        state = assemble(order, site.memory())
        base = site.score(State(), "test", hd95=True)
        merged = site.score(state, "test", hd95=True)
        if site.settings.simulated and isinstance(state.parameters, Adapter):
            _leave(order, site.name, state.parameters)
        metrics = {"cases": merged.cases, **_flat("base", base), **_flat("test", merged)}
        return RecordDict({records.METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]

    return _answer(message, context, handler)


def _leave(order: Order, site: str, adapter: Adapter) -> None:
    """Leave the adapter of one site alone in a simulation's run folder, beside the others."""
    if order.config.method.personal:
        folder = order.config.path(order.config.run_dir) / "personal"
        save_adapter(adapter, folder / site_file(site), {"site": site})


def _flat(prefix: str, scores: Scores) -> dict[str, float]:
    """Name scores ``test.dice.LV`` and so on."""
    return {
        f"{prefix}.{metric}.{structure}": value
        for metric, values in scores.summary().items()
        for structure, value in values.items()
    }
