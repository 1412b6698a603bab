"""The ClientApp of a site: one entry point for each request of the server."""

from collections.abc import Callable
from dataclasses import replace
from logging import ERROR

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from cardiac.evaluation import Scores
from cardiac.splits import TooFewPatientsError
from client_app.assembly import NotHeldError, State, assemble, keep
from client_app.guard import guard
from client_app.settings import LimitError, SiteSettings
from client_app.site import Site, open_site
from common import messages
from common.adapter import Adapter, save_adapter, site_file
from common.errors import UserError
from common.messages import CANNOT, TOO_FEW, UNEXPECTED, Failure, Request

app = ClientApp(mods=[guard])

Handler = Callable[[Site, Request], RecordDict]


def _answer(message: Message, context: Context, handler: Handler) -> Message:
    """Return what the handler answers; an error is logged and answered with a ``Failure``.

    Error texts name files and patients. Over a network the server gets a fixed sentence in their
    place; in a simulation it gets the text, as the server and the site have the same user.
    """
    simulated = "partition-id" in context.node_config
    try:
        request = messages.read_request(message)
        if request.config.train.threads:
            torch.set_num_threads(request.config.train.threads)
        settings = SiteSettings.from_node(context.node_config)
        settings.check(request.kind, request.config, request.site_rank)
        content = handler(open_site(settings, settings.applied(request.config)), request)
    except UserError as error:
        log(ERROR, "%s", error)
        may_leave = simulated or isinstance(error, LimitError | NotHeldError)
        fixed = TOO_FEW if isinstance(error, TooFewPatientsError) else CANNOT
        content = Failure(str(error) if may_leave else fixed).to_record()
    except Exception as error:
        log(ERROR, "unexpected error", exc_info=error)
        reason = f"{UNEXPECTED} ({type(error).__name__})" if simulated else UNEXPECTED
        content = Failure(reason).to_record()
    return Message(content, reply_to=message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Report the site's name, its numbers of cases and the SHA-256 of its base file."""
    return _answer(message, context, lambda site, _: site.describe().to_record())


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received parameters, keep what the next round needs, and return the update."""

    def handler(site: Site, request: Request) -> RecordDict:
        memory = site.memory(request.run_id)
        state = assemble(request, memory)
        update = site.train(state, request.server_round)
        keep(request, memory, state, update.parameters)
        return update.to_record(request.config.method.sent_up(request.server_round))

    return _answer(message, context, handler)


@app.evaluate()
def validate(message: Message, context: Context) -> Message:
    """Report P, the mean Dice on the validation patients, of the received parameters."""

    def handler(site: Site, request: Request) -> RecordDict:
        state = assemble(request, site.memory(request.run_id))
        scores = site.score(state, "val")
        others = (site.score(replace(state, parameters=other), "val") for other in state.others)
        dice = tuple(found.mean_dice for found in others)
        return messages.Validation(scores.mean_dice, scores.cases, dice).to_record()

    return _answer(message, context, handler)


@app.evaluate("test")
def test(message: Message, context: Context) -> Message:
    """Report the scores of the base and of the received parameters on the test patients."""

    def handler(site: Site, request: Request) -> RecordDict:
        state = assemble(request, site.memory(request.run_id))
        base = site.score(State(), "test", hd95=True)
        merged = site.score(state, "test", hd95=True)
        config, adapter = request.config, state.parameters
        if site.settings.simulated and config.method.personal and isinstance(adapter, Adapter):
            path = config.path(config.run_dir) / "personal" / site_file(site.name)
            save_adapter(adapter, path, {"site": site.name})
        scores = {**_flat("base", base), **_flat("test", merged)}
        return messages.TestScores(merged.cases, scores).to_record()

    return _answer(message, context, handler)


def _flat(prefix: str, scores: Scores) -> dict[str, float]:
    """Return scores under flat names such as ``test.dice.LV``."""
    return {
        f"{prefix}.{metric}.{structure}": value
        for metric, values in scores.summary().items()
        for structure, value in values.items()
    }
