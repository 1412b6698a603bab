"""Puts a request and what the site holds together to a network's state, and keeps parts of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from flwr.app import ArrayRecord
from torch import Tensor

from client_app.memory import FOLDED, OWN, Memory
from common import folding, lora, records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.messages import NOT_HELD, Request, Train
from common.method import BOTH
from common.model import skeleton, weight_shapes
from common.weights import Parameters, Weights


class NotHeldError(UserError):
    """The site does not hold what the request builds on; the text names no file and may leave."""


@dataclass(frozen=True)
class State:
    """What the network computes with besides its base."""

    parameters: Parameters | None = None
    """The adapter or the weights in use; None for the base alone."""
    folded: Mapping[str, Tensor] | None = None
    """What is folded into the base, (c_out, c_in·k·k) by layer; None where nothing is."""
    folds: int = 0
    """Number of merges in ``folded``."""
    others: tuple[Adapter, ...] = ()
    """More adapters to rate, in the order of the request."""


@lru_cache(maxsize=4)
def layer_shapes(config: RunConfig) -> Mapping[str, tuple[int, int]]:
    """Return (c_out, c_in·k·k) of every adapted layer of the run's network."""
    return lora.layer_shapes(skeleton(config.model.channels()))


def assemble(request: Request, memory: Memory) -> State:
    """Return the state that a request asks for.

    Raises
    ------
    NotHeldError
        The request builds on what this site does not hold.
    UserError
        The arrays of the request cannot be used.
    """
    try:
        if request.config.method.trains == "weights":
            return State(_weights(request))
        folded, folds = _folded(request, memory)
        adapter = _adapter(request, memory)
        others = tuple(_whole(request, record) for record in request.others)
        state = State(adapter, folded, folds, others)
    except ValueError as error:
        raise UserError(f"the server's adapter cannot be used: {error}") from None
    if isinstance(request, Train) and state.parameters is None:
        raise UserError("the training message has no adapter")
    return state


def keep(request: Request, memory: Memory, state: State, trained: Parameters) -> None:
    """Keep what the next round builds on and the server does not send again.

    ``state`` is what training began with, ``trained`` what it ended with.
    """
    if state.folded is not None:
        memory.save(FOLDED, state.folds, state.folded)
    if request.config.method.keeps_own:
        memory.save(OWN, request.server_round, trained.tensors())


def _weights(request: Request) -> Weights | None:
    if request.adapter is not None:
        shapes = weight_shapes(skeleton(request.config.model.channels()))
        return Weights(records.record_to_named(request.adapter, shapes))
    return Weights() if isinstance(request, Train) else None


def _folded(request: Request, memory: Memory) -> tuple[Mapping[str, Tensor] | None, int]:
    folded: Mapping[str, Tensor] | None = None
    if request.folded is not None:
        folded = records.record_to_named(request.folded, layer_shapes(request.config))
    elif request.folds:
        folded = memory.load(FOLDED, request.folds)
        if folded is None:
            raise NotHeldError(f"{NOT_HELD}the {request.folds} merges so far")
    if request.fold is None:
        return folded, request.folds
    return folding.fold(folded, _whole(request, request.fold)), request.folds + 1


def _adapter(request: Request, memory: Memory) -> Adapter | None:
    config, method = request.config, request.config.method
    if request.site_rank == 0:
        return None
    shapes = layer_shapes(config)
    if method.merge == "fold":  # every round begins with a new adapter, drawn from the run's seed
        if not isinstance(request, Train):
            return None
        drawn = lora.drawn_adapter(config, shapes, request.run_rank, request.server_round)
        return drawn.truncated(request.site_rank)
    if method.shares_whole:
        record, rank = request.adapter, request.site_rank
        return None if record is None else _whole(request, record, rank)
    rest = lora.drawn_adapter(config, shapes, request.run_rank).truncated(request.site_rank)
    sent = method.sent_down(request.last, whole=request.held != request.last)
    if method.keeps_own and sent != BOTH and request.last:
        held = memory.latest(OWN, request.held, request.last)
        if held is not None:
            rest = Adapter.from_tensors(held, rest.scale)
        elif request.held:
            raise NotHeldError(f"{NOT_HELD}its factors of round {request.held}")
    return records.record_to_whole(request.adapter, sent, rest, shapes)


def _whole(request: Request, record: ArrayRecord, rank: int | None = None) -> Adapter:
    scale, shapes = request.config.model.alpha_per_rank, layer_shapes(request.config)
    return records.record_to_adapter(record, scale, shapes, rank)
