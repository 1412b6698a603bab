"""The switch ``max-change``: a site refuses what is too far from what it trained last."""

import math
from collections.abc import Mapping

from torch import Tensor

from client_app.assembly import State
from client_app.memory import Memory
from client_app.settings import LimitError
from client_app.site import Site
from common.adapter import Adapter
from common.messages import TOO_FAR, Request, Train
from common.weights import Parameters, Weights

TRAINED = "trained"
"""Kind in the site's memory: the weight change after its training; the number is the round."""

Change = Mapping[str, Tensor]
"""By layer or weight, the difference to the base."""


def check_change(site: Site, request: Request, memory: Memory, state: State) -> None:
    """Check every adapter of a request against what the site trained last in this run.

    Before its first training a site has nothing to compare with.

    Raises
    ------
    LimitError
        One is farther from it than the site's ``max-change`` allows.
    """
    limit = site.settings.max_change
    if not limit or (state.parameters is None and state.folded is None):
        return
    last = memory.latest(TRAINED, 0, request.server_round - isinstance(request, Train))
    if last is None:
        return
    for parameters in (state.parameters, *state.others):
        if distance(change_of(site, state.folded, parameters), last) > limit:
            raise LimitError(TOO_FAR)


def keep_change(site: Site, request: Request, memory: Memory, state: State, to: Parameters) -> None:
    """Keep what training made of a state, where the switch is on."""
    if site.settings.max_change:
        memory.save(TRAINED, request.server_round, change_of(site, state.folded, to))


def change_of(
    site: Site, folded: Change | None, parameters: Parameters | None
) -> dict[str, Tensor]:
    """Return how far the base is changed by what is folded into it and by an adapter or weights."""
    change: dict[str, Tensor] = dict(folded or {})
    match parameters:
        case Adapter() as adapter:
            for name in adapter.layers:
                delta = adapter.delta(name)
                change[name] = change[name] + delta if name in change else delta
        case Weights(values) if values:
            base = site.model().state_dict()
            change = {name: value - base[name] for name, value in values.items()}
    return change


def distance(change: Change, last: Change) -> float:
    """Return ‖change − last‖ / ‖last‖, over all tensors; one that is missing counts as zero."""
    names = {*change, *last}
    differences = (
        change[name].double() - last[name].double()
        if name in change and name in last
        else (change[name] if name in change else last[name]).double()
        for name in names
    )
    far = math.sqrt(sum(float(value.square().sum()) for value in differences))
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in last.values()))
    return far / norm if norm else math.inf if far else 0.0
