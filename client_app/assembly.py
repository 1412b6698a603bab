"""From a message and what the site holds to the network's state: what is folded, what is in use."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from flwr.app import ArrayRecord, Message
from torch import Tensor

from client_app.memory import FOLDED, OWN, Memory
from common import folding, lora, records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.model import skeleton, weight_shapes
from common.weights import Parameters, Weights


class NotHeldError(UserError):
    """The site does not hold what the message builds on; the text has no file and may leave."""


@dataclass(frozen=True)
class Order:
    """What the server asks for in one message.

    Attributes
    ----------
    kind
        The message's type.
    config
        Of the run.
    server_round
        The round it belongs to; 0 before the first.
    rank
        The rank at which the site trains, 0 where it does not matter.
    run_rank
        The highest rank of the run.
    folds
        How many merges must be folded into the base before what the message brings.
    arrays
        The message's tensors by key.
    """

    kind: str
    config: RunConfig
    server_round: int
    rank: int
    run_rank: int
    folds: int
    arrays: Mapping[str, ArrayRecord]


@dataclass(frozen=True)
class State:
    """What the network is to compute with, beside its base.

    Attributes
    ----------
    parameters
        The adapter or the weights in use; None for the base alone.
    folded
        Dense changes of the base by layer, if any.
    folds
        How many merges they are.
    others
        More adapters to rate, in the order of the message.
    """

    parameters: Parameters | None = None
    folded: Mapping[str, Tensor] | None = None
    folds: int = 0
    others: tuple[Adapter, ...] = ()


def read_order(message: Message) -> Order:
    """Unpack a message.

    Raises
    ------
    UserError
        Its configuration is not one of this version.
    """
    config, extra = records.record_to_config(message.content.config_records[records.CONFIG])
    numbers = (extra.get(key, 0) for key in records.MESSAGE_KEYS)
    server_round, rank, run_rank, folds = numbers
    arrays = dict(message.content.array_records)
    kind = message.metadata.message_type
    return Order(kind, config, server_round, rank, run_rank, folds, arrays)


@lru_cache(maxsize=4)
def layer_shapes(config: RunConfig) -> Mapping[str, tuple[int, int]]:
    """Return (c_out, c_in·k·k) of every adapted layer of the run's network."""
    return lora.layer_shapes(skeleton(config.model.channels()))


def assemble(order: Order, memory: Memory) -> State:
    """Return the state that a message asks for.

    Raises
    ------
    NotHeldError
        The message builds on what this site does not hold.
    UserError
        What came cannot be used.
    """
    try:
        if order.config.method.trains == "weights":
            return State(_weights(order))
        folded, folds = _folded(order, memory)
        return State(_adapter(order, memory), folded, folds, _others(order))
    except ValueError as error:
        raise UserError(f"the server's adapter cannot be used: {error}") from None


def _weights(order: Order) -> Weights | None:
    if records.ADAPTER in order.arrays:
        shapes = weight_shapes(skeleton(order.config.model.channels()))
        return Weights(records.record_to_named(order.arrays[records.ADAPTER], shapes))
    return Weights() if order.kind == records.TRAIN else None


def _folded(order: Order, memory: Memory) -> tuple[Mapping[str, Tensor] | None, int]:
    folded: Mapping[str, Tensor] | None = None
    if records.FOLDED in order.arrays:
        shapes = layer_shapes(order.config)
        folded = records.record_to_named(order.arrays[records.FOLDED], shapes)
    elif order.folds:
        folded = memory.load(FOLDED, order.folds)
        if folded is None:
            raise NotHeldError(f"this site does not hold the {order.folds} merges so far")
    if records.FOLD not in order.arrays:
        return folded, order.folds
    scale, shapes = order.config.model.alpha_per_rank, layer_shapes(order.config)
    stack = records.record_to_adapter(order.arrays[records.FOLD], scale, shapes, None)
    return folding.fold(folded, stack), order.folds + 1


def _adapter(order: Order, memory: Memory) -> Adapter | None:
    config, method = order.config, order.config.method
    if order.rank == 0:
        return None
    scale, shapes = config.model.alpha_per_rank, layer_shapes(config)
    if method.merge == "fold":  # every round begins with a new one, which is nobody's secret
        if order.kind != records.TRAIN:
            return None
        drawn = lora.drawn_adapter(config, shapes, order.run_rank, order.server_round)
        return drawn.truncated(order.rank)
    record = order.arrays.get(records.ADAPTER)
    if method.shares_whole:
        if record is None:
            return None
        return records.record_to_adapter(record, scale, shapes, order.rank)
    rest = lora.drawn_adapter(config, shapes, order.run_rank).truncated(order.rank)
    last = order.server_round - (order.kind == records.TRAIN)  # round of what is in the message
    sent = method.sent_down(last, whole=record is not None and _is_whole(record))
    held = None if method.factors == "B" else memory.latest(OWN, last + 1)
    if held:
        rest = Adapter.from_tensors(held, scale)
    if method.factors == "alternate" and len(sent) == 1 and memory.load(OWN, last) is None:
        raise NotHeldError(f"this site does not hold its factors of round {last}")
    return records.record_to_whole(record, sent, rest, shapes)


def _is_whole(record: ArrayRecord) -> bool:
    names = records.record_to_tensors(record)
    return {name.rpartition("_")[2] for name in names} == {"A", "B"}


def _others(order: Order) -> tuple[Adapter, ...]:
    found: list[Adapter] = []
    while (key := records.OTHER.format(len(found) + 1)) in order.arrays:
        scale, shapes = order.config.model.alpha_per_rank, layer_shapes(order.config)
        found.append(records.record_to_adapter(order.arrays[key], scale, shapes, None))
    return tuple(found)
