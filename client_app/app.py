"""Flower's way into a site: messages in, messages out, nothing else."""

from collections.abc import Callable
from dataclasses import replace
from logging import ERROR

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from cardiac.evaluation import Scores
from client_app.assembly import NotHeldError, State, assemble, keep
from client_app.guard import guard
from client_app.settings import LimitError, SiteSettings
from client_app.site import Site, open_site
from common import messages
from common.adapter import Adapter, save_adapter, site_file
from common.errors import UserError
from common.messages import CANNOT, UNEXPECTED, Failure, Request

app = ClientApp(mods=[guard])

Handler = Callable[[Site, Request], RecordDict]


def _answer(message: Message, context: Context, handler: Handler) -> Message:
    """Run a handler; what goes wrong is logged here, and the server is told that it did.

    Error texts name files and patients. They leave the process only in a simulation, where the
    server's user is the site's as well.
    """
    simulated = "partition-id" in context.node_config
    try:
        request = messages.read_request(message)
        if request.config.train.threads:
            torch.set_num_threads(request.config.train.threads)
        settings = SiteSettings.from_node(context.node_config)
        settings.check(request.kind, request.config, request.site_rank)
        content = handler(open_site(settings, settings.applied(request.config)), request)
    except (LimitError, NotHeldError) as error:
        log(ERROR, "%s", error)
        content = Failure(str(error)).to_record()
    except UserError as error:
        log(ERROR, "%s", error)
        content = Failure(str(error) if simulated else CANNOT).to_record()
    except Exception as error:
        log(ERROR, "unexpected error", exc_info=error)
        reason = f"{UNEXPECTED} ({type(error).__name__})" if simulated else UNEXPECTED
        content = Failure(reason).to_record()
    return Message(content, reply_to=message)


@app.query("describe")
def describe(message: Message, context: Context) -> Message:
    """Say which site this is, how many cases it has and which base file."""
    return _answer(message, context, lambda site, _: site.describe().to_record())


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train what came, keep what the next round needs and send back what the method sends."""

    def handler(site: Site, request: Request) -> RecordDict:
        memory = site.memory(request.run_id)
        state = assemble(request, memory)
        update = site.train(state, request.server_round)
        keep(request, memory, state, update.parameters)
        return update.to_record(request.config.method.sent_up(request.server_round))

    return _answer(message, context, handler)


@app.evaluate()
def validate(message: Message, context: Context) -> Message:
    """Report P, the mean Dice on the validation patients, of what came or of the base alone."""

    def handler(site: Site, request: Request) -> RecordDict:
        state = assemble(request, site.memory(request.run_id))
        scores = site.score(state, "val")
        others = (site.score(replace(state, parameters=other), "val") for other in state.others)
        dice = tuple(found.mean_dice for found in others)
        return messages.Validation(scores.mean_dice, scores.cases, dice).to_record()

    return _answer(message, context, handler)


@app.evaluate("test")
def test(message: Message, context: Context) -> Message:
    """Report the scores of the base and of what came on the test patients."""

    def handler(site: Site, request: Request) -> RecordDict:
        state = assemble(request, site.memory(request.run_id))
        base = site.score(State(), "test", hd95=True)
        merged = site.score(state, "test", hd95=True)
        if site.settings.simulated and isinstance(state.parameters, Adapter):
            _leave(request, site.name, state.parameters)
        scores = {**_flat("base", base), **_flat("test", merged)}
        return messages.TestScores(merged.cases, scores).to_record()

    return _answer(message, context, handler)


def _leave(request: Request, site: str, adapter: Adapter) -> None:
    """Leave the adapter of one site alone in a simulation's run folder, beside the others."""
    if request.config.method.personal:
        folder = request.config.path(request.config.run_dir) / "personal"
        save_adapter(adapter, folder / site_file(site), {"site": site})


def _flat(prefix: str, scores: Scores) -> dict[str, float]:
    """Name scores ``test.dice.LV`` and so on."""
    return {
        f"{prefix}.{metric}.{structure}": value
        for metric, values in scores.summary().items()
        for structure, value in values.items()
    }
