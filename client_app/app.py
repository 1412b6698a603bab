"""The ClientApp of a site: what it does for each request of the server, once the guard lets it."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from cardiac.evaluation import Scores
from client_app.assembly import State, assemble, keep
from client_app.change import check_change, keep_change
from client_app.guard import guard
from client_app.settings import SiteSettings
from client_app.site import Site, open_site
from common import messages
from common.adapter import Adapter, save_adapter, site_file
from common.messages import Request


def describe(site: Site, _: Request) -> RecordDict:
    """Report the site's name, its numbers of cases and the SHA-256 of its base file."""
    return site.describe().to_record()


def train(site: Site, request: Request) -> RecordDict:
    """Train the received parameters, keep what the next round needs, and return the update."""
    memory = site.memory(request.run_id)
    state = assemble(request, memory)
    check_change(site, request, memory, state)
    update = site.train(state, request.server_round)
    keep(request, memory, state, update.parameters)
    keep_change(site, request, memory, state, update.parameters)
    return update.to_record(request.config.method.sent_up(request.server_round))


def validate(site: Site, request: Request) -> RecordDict:
    """Report P, the mean Dice on the validation patients, of the received parameters."""
    memory = site.memory(request.run_id)
    state = assemble(request, memory)
    check_change(site, request, memory, state)
    scores = site.score(state, "val")
    others = (site.score(replace(state, parameters=other), "val") for other in state.others)
    dice = tuple(found.mean_dice for found in others)
    return messages.Validation(scores.mean_dice, scores.cases, dice).to_record()


def test(site: Site, request: Request) -> RecordDict:
    """Report the scores of the base and of the received parameters on the test patients."""
    memory = site.memory(request.run_id)
    state = assemble(request, memory)
    check_change(site, request, memory, state)
    base = site.score(State(), "test", hd95=True)
    merged = site.score(state, "test", hd95=True)
    config, adapter = request.config, state.parameters
    if site.settings.simulated and config.method.personal and isinstance(adapter, Adapter):
        path = config.path(config.run_dir) / "personal" / site_file(site.name)
        save_adapter(adapter, path, {"site": site.name})
    scores = {**_flat("base", base), **_flat("test", merged)}
    return messages.TestScores(merged.cases, scores).to_record()


def _flat(prefix: str, scores: Scores) -> dict[str, float]:
    """Return scores under flat names such as ``test.dice.LV``."""
    return {
        f"{prefix}.{metric}.{structure}": value
        for metric, values in scores.summary().items()
        for structure, value in values.items()
    }


SERVES: Mapping[str, Callable[[Site, Request], RecordDict]] = {
    messages.DESCRIBE: describe,
    messages.TRAIN: train,
    messages.VALIDATE: validate,
    messages.TEST: test,
}
"""What a site does for each of Flower's types of message."""


def serve(settings: SiteSettings, request: Request) -> RecordDict:
    """Do what an accepted request asks for, and return the content of the reply."""
    config = settings.applied(request.config)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    return SERVES[request.kind](open_site(settings, config), request)


def answer(message: Message, context: Context, refusal: str = "") -> Message:
    """Answer a message of any type; see :func:`client_app.guard.guard` for ``refusal``."""
    return guard(message, context, serve, refusal)


app = ClientApp()
app.query("describe")(answer)
app.train()(answer)
app.evaluate()(answer)
app.evaluate("test")(answer)
