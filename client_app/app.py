"""Flower's way into a site: messages in, messages out, nothing else."""

from collections.abc import Callable
from logging import ERROR

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from client_app.evaluation import Scores
from client_app.guard import CANNOT, UNEXPECTED, failure, guard, layer_shapes
from client_app.settings import LimitError, SiteSettings
from client_app.site import Site, open_site
from common import records
from common.adapter import Adapter
from common.errors import UserError

app = ClientApp(mods=[guard])

Handler = Callable[[Site, "Order"], RecordDict]


class Order:
    """What the server asks for in one message."""

    def __init__(self, message: Message) -> None:
        config = message.content[records.CONFIG]
        assert isinstance(config, ConfigRecord)
        self.config, extra = records.record_to_config(config)
        self.server_round = extra.get("server-round", 0)
        self.rank = extra.get("site-rank", 0)
        self._arrays = message.content.get(records.ADAPTER)

    def adapter(self) -> Adapter | None:
        """Return the adapter in the message, checked; None where it has none."""
        if self._arrays is None:
            return None
        assert isinstance(self._arrays, ArrayRecord)
        shapes = layer_shapes(self.config)
        try:
            scale = self.config.model.alpha_per_rank
            return records.record_to_adapter(self._arrays, scale, shapes, self.rank)
        except ValueError as error:
            raise UserError(f"the server's adapter cannot be used: {error}") from None


def _answer(message: Message, context: Context, handler: Handler) -> Message:
    """Run a handler; what goes wrong is logged here, and the server is told that it did.

    Error texts name files and patients. They leave the process only in a simulation, where the
    server's user is the site's as well.
    """
    simulated = "partition-id" in context.node_config
    try:
        order = Order(message)
        if order.config.train.threads:
            torch.set_num_threads(order.config.train.threads)
        settings = SiteSettings.from_node(context.node_config)
        settings.check(message.metadata.message_type, order.config, order.rank)
        site = open_site(settings, settings.applied(order.config))
        content = handler(site, order)
    except LimitError as error:
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

    def handler(site: Site, _: Order) -> RecordDict:
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
    """Train the adapter that came and send it back."""

    def handler(site: Site, order: Order) -> RecordDict:
        adapter = order.adapter()
        if adapter is None:
            raise UserError("the training message has no adapter")
        result = site.train(adapter, order.server_round)
        metrics: dict[str, int | float] = {
            "num-examples": result.slices,
            "loss": result.loss,
            "seconds": result.seconds,
        }
        if result.start_dice is not None:
            metrics["start-dice"] = result.start_dice
        if result.local_dice is not None:
            metrics["local-dice"] = result.local_dice
        return RecordDict(
            {
                records.ADAPTER: records.adapter_to_record(result.adapter),
                records.METRICS: MetricRecord(metrics),  # type: ignore[arg-type]
            }
        )

    return _answer(message, context, handler)


@app.evaluate()
def validate(message: Message, context: Context) -> Message:
    """Report P, the mean Dice on the validation patients, of the adapter that came or the base."""

    def handler(site: Site, order: Order) -> RecordDict:
        scores = site.score(order.adapter(), "val")
        metrics = MetricRecord({"dice": scores.mean_dice, "num-examples": scores.cases})
        return RecordDict({records.METRICS: metrics})

    return _answer(message, context, handler)


@app.evaluate("test")
def test(message: Message, context: Context) -> Message:
    """Report the scores of the base and of the adapter that came on the test patients."""

    def handler(site: Site, order: Order) -> RecordDict:
        base = site.score(None, "test", hd95=True)
        merged = site.score(order.adapter(), "test", hd95=True)
        metrics = {"cases": merged.cases, **_flat("base", base), **_flat("test", merged)}
        return RecordDict({records.METRICS: MetricRecord(metrics)})  # type: ignore[arg-type]

    return _answer(message, context, handler)


def _flat(prefix: str, scores: Scores) -> dict[str, float]:
    """Name scores ``test.dice.LV`` and so on."""
    return {
        f"{prefix}.{metric}.{structure}": value
        for metric, values in scores.summary().items()
        for structure, value in values.items()
    }
