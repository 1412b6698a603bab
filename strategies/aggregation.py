"""Which merge a method uses, and what its sites send: from updates and masses to a merge."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, Message
from torch import nn

from common import lora, messages, records
from common.adapter import Adapter, Factors
from common.messages import Reader, Update
from common.method import BOTH, Half, MethodConfig
from common.model import weight_shapes
from common.weights import Parameters, Weights
from strategies import merging, weighting
from strategies.state import Merged, RunState

ROOM = 2**18
"""Bytes of a reply beside its tensors."""
TENSOR_ROOM = 2**9
"""Bytes of a tensor beside its values, such as its name."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of a run's network."""

    layers: Mapping[str, tuple[int, int]]
    """(c_out, c_in·k·k) of every adapted layer by name."""
    weights: Mapping[str, tuple[int, ...]]
    """Shape of every weight by name."""

    @classmethod
    def of(cls, model: nn.Module) -> "Shapes":
        """Return the shapes of a network, which may be a :func:`common.model.skeleton`."""
        return cls(lora.layer_shapes(model), weight_shapes(model))


def reader(
    state: RunState, method: MethodConfig, shapes: Shapes, rank: int, server_round: int
) -> Reader:
    """Return a function that reads and checks the arrays that a site sends after training.

    A half of the factors that the method does not send is taken from the last merge.
    """

    def read(arrays: ArrayRecord | None) -> Parameters:
        if method.trains == "weights":
            if arrays is None:
                raise ValueError("the reply has no weights")
            return Weights(records.record_to_named(arrays, shapes.weights))
        halves = method.sent_up(server_round)
        if halves and arrays is None:
            raise ValueError("the reply has no adapter")
        before = state.parameters
        assert isinstance(before, Adapter)
        return records.record_to_whole(arrays, halves, before.truncated(rank), shapes.layers)

    return read


def most_bytes(request: Message, shapes: Shapes) -> int:
    """Return the bytes that the reply to a request holds at most, with room for its headers."""
    records_sent = len(request.content.array_records)
    if request.metadata.message_type != messages.TRAIN:
        return ROOM + TENSOR_ROOM * records_sent  # numbers, more of them with more to rate
    if request.content.config_records[messages.CONFIG]["trains"] == "weights":
        sizes = [math.prod(shape) for shape in shapes.weights.values()]
    else:
        rank = request.content.config_records[messages.CONFIG]["site-rank"]
        assert isinstance(rank, int)
        sizes = [rank * side for layer in shapes.layers.values() for side in layer]
    return ROOM + TENSOR_ROOM * len(sizes) + 4 * sum(sizes)


def shares_of(updates: Mapping[str, Update], method: MethodConfig) -> dict[str, float]:
    """Return every site's share of a round's merge."""
    examples = {site: update.examples for site, update in updates.items()}
    norms = {}
    if method.share == "norm":
        for site, update in updates.items():
            assert isinstance(update.parameters, Adapter)
            norms[site] = weighting.product_norm(update.parameters)
    return weighting.shares(examples, method.share, norms)


def merge(
    updates: Mapping[str, Parameters],
    masses: Mapping[str, float],
    method: MethodConfig,
    state: RunState,
    server_round: int,
) -> Merged:
    """Return the merge of the sites' updates with their masses m_c, as the method has it.

    ``state`` is the state before the merge: halves of the factors that did not train in this
    round stay as they are in it.
    """
    before = state.parameters
    if isinstance(before, Weights):
        whole = {site: u.values for site, u in updates.items() if isinstance(u, Weights)}
        return Merged(Weights(merging.mean_weights(whole, masses)))
    adapters = {site: u for site, u in updates.items() if isinstance(u, Adapter)}
    if method.merge == "fold":
        return Merged(before, merging.stack(adapters, masses))
    rank = before.rank  # an adapter that was scaled back has a higher rank
    how = "svd" if method.merge == "svd" else "pad"
    merged = merging.merge(adapters, masses, how, rank).truncated(rank)
    fold = merging.residual(adapters, masses) if method.merge == "residual" else None
    return Merged(with_halves(merged, method.sent_up(server_round), before), fold)


def with_halves(merged: Adapter, halves: tuple[Half, ...], before: Adapter) -> Adapter:
    """Return an adapter with these halves of the merged factors and the others of ``before``."""
    if halves == BOTH:
        return merged
    layers = {}
    for name, (a, b) in merged.layers.items():
        old = before.layers[name]
        layers[name] = Factors(a if "A" in halves else old.A, b if "B" in halves else old.B)
    return Adapter(layers, merged.scale)
