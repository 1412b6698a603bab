"""A federation in memory: scripted sites that answer as client_app/app.py does, without training.

A fake site trains by adding a perturbation that depends on its name and the round alone, and
reports the validation Dice its script says. It reads the server's messages with the same checks as
a real site, so a message that a real site would turn down is turned down here.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TypeVar

import torch
from flwr.app import ArrayRecord, Message, RecordDict
from flwr.serverapp import Grid

from common import lora, messages, records
from common.adapter import Adapter, Factors
from common.config import RunConfig
from common.flower_private import Run
from common.messages import read_request
from common.options import Value
from common.seeding import derive_seed
from common.weights import Parameters
from strategies.aggregation import Shapes
from strategies.rate_my_lora import RateMyLoRA
from strategies.state import RoundRecord, RunState

SHAPES = {"down.conv": (7, 18), "head": (3, 5), "up.conv": (6, 12)}
"""(c_out, fan_in); the head is narrower than the ranks used here."""
SHA = "a" * 64

Dice = Mapping[int, float] | float
LOCAL_DICE = 0.625
T = TypeVar("T")
Fault = Callable[[Message, Message], Message | None]
"""Takes the server's message and the good reply; returns what is sent instead."""


def random_adapter(
    seed: int,
    rank: int,
    shapes: Mapping[str, tuple[int, int]] = SHAPES,
    scale: float = 1.0,
) -> Adapter:
    """Return an adapter of normal factors."""
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: Factors(
            torch.randn(rank, fan_in, generator=generator),
            torch.randn(c_out, rank, generator=generator),
        )
        for name, (c_out, fan_in) in sorted(shapes.items())
    }
    return Adapter(layers, scale)


def same_bits(one: Parameters, other: Parameters) -> bool:
    """Whether two adapters are equal to the last bit."""
    assert isinstance(one, Adapter)
    assert isinstance(other, Adapter)
    left, right = one.tensors(), other.tensors()
    return (
        list(left) == list(right)
        and one.scale == other.scale
        and all(torch.equal(left[key], right[key]) for key in left)
    )


def trained(name: str, server_round: int, start: Adapter) -> Adapter:
    """Return what the site of that name makes of ``start`` in a round."""
    change = random_adapter(derive_seed(name, server_round), start.rank)
    layers = {
        layer: Factors(f.A + 0.1 * change.layers[layer].A, f.B + 0.1 * change.layers[layer].B)
        for layer, f in start.layers.items()
    }
    return Adapter(layers, start.scale)


@dataclass
class FakeSite:
    """A scripted site.

    Attributes
    ----------
    dice
        P by round, 0 for the base; a number stands for every round.
    start_dice
        Dice of what training starts from, by round; only sent where the run asks for it, unless
        ``chatty``.
    faults
        What goes wrong, by (round, message type).
    """

    name: str
    examples: int = 10
    dice: Dice = 0.5
    start_dice: Dice = 0.5
    sha256: str = SHA
    chatty: bool = False
    max_rank: int | None = None
    faults: dict[tuple[int, str], Fault] = field(default_factory=dict)
    uploads: dict[int, Adapter] = field(default_factory=dict)

    def answer(self, message: Message) -> Message | None:
        """Answer the server, or fail as scripted."""
        request = read_request(message)
        try:
            content = self._content(request)
        except ValueError as error:
            content = messages.Failure(str(error)).to_record()
        reply = Message(content, reply_to=message)
        fault = self.faults.get((request.server_round, request.kind))
        return fault(message, reply) if fault else reply

    def _content(self, request: messages.Request) -> RecordDict:
        config, server_round = request.config, request.server_round
        if isinstance(request, messages.Describe):
            return messages.Description(
                self.name, self.sha256, self.examples, train_cases=2, max_rank=self.max_rank
            ).to_record()
        adapter = None
        if request.adapter is not None:
            scale, rank = config.model.alpha_per_rank, request.site_rank
            adapter = records.record_to_adapter(request.adapter, scale, SHAPES, rank)
        if isinstance(request, messages.Validate):
            assert (adapter is None) == (server_round == 0)
            return messages.Validation(_at(self.dice, server_round), 2).to_record()
        if isinstance(request, messages.Test):
            return messages.TestScores(2, dict.fromkeys(messages.SCORES, 0.5)).to_record()
        assert adapter is not None
        self.uploads[server_round] = trained(self.name, server_round, adapter)
        start = config.method.previous == "penalised" or self.chatty
        return messages.Update(
            self.uploads[server_round],
            self.examples,
            loss=0.5,
            seconds=0.0,
            start_dice=_at(self.start_dice, server_round) if start else None,
            local_dice=LOCAL_DICE if config.method.local_validation else None,
        ).to_record()


def _at(dice: Dice, server_round: int) -> float:
    return dice if isinstance(dice, float) else dice[server_round]


class FakeGrid(Grid):
    """Delivers messages to fake sites by node id.

    Parameters
    ----------
    sites
        Sites by node id; change it to let nodes come and go.
    shuffle
        Seeds the order in which nodes are listed and replies arrive.
    """

    def __init__(self, sites: Mapping[int, FakeSite], shuffle: int | None = None) -> None:
        self.nodes = dict(sites)
        self.log: list[tuple[int, str, str, Message]] = []
        """(round, message type, site, message) of everything that was sent."""
        self._random = None if shuffle is None else random.Random(shuffle)  # noqa: S311

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return self._shuffled(list(self.nodes))

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Return the replies of the sites that give one."""
        replies = []
        for message in messages:
            node = message.metadata.dst_node_id
            site = self.nodes[node]
            request = read_request(message)
            self.log.append((request.server_round, request.kind, site.name, message))
            reply = site.answer(message)
            if reply is not None:
                replies.append(reply)
        return self._shuffled(replies)

    def sent(self, server_round: int, kind: str) -> dict[str, Message]:
        """Return the messages of a round and type by site."""
        return {s: m for t, k, s, m in self.log if t == server_round and k == kind}

    def _shuffled(self, items: list[T]) -> list[T]:
        if self._random is not None:
            self._random.shuffle(items)
        return items

    def set_run(self, run: Run) -> None:
        """Not used by the strategy."""
        raise NotImplementedError

    @property
    def run(self) -> Run:
        """Not used by the strategy."""
        raise NotImplementedError

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Not used by the strategy."""
        raise NotImplementedError

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Not used by the strategy."""
        raise NotImplementedError

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Not used by the strategy."""
        raise NotImplementedError


def nodes(*sites: FakeSite) -> dict[int, FakeSite]:
    """Return the sites as nodes 1, 2 and so on."""
    return dict(enumerate(sites, start=1))


def message_adapter(message: Message, scale: float = 1.0) -> Adapter:
    """Return the adapter in a message."""
    arrays = message.content[messages.ADAPTER]
    assert isinstance(arrays, ArrayRecord)
    return Adapter.from_tensors(records.record_to_tensors(arrays), scale)


def make_config(**keys: Value) -> RunConfig:
    """Return a configuration of three rounds of equal rank 4; underscores stand for hyphens."""
    flat: dict[str, Value] = {"rank": 4, "ranks": "equal", "rounds": 3, "wait-s": 1}
    flat.update({key.replace("_", "-"): value for key, value in keys.items()})
    return RunConfig.from_flat(flat)


def initial_state(config: RunConfig) -> RunState:
    """Return the state before round 1."""
    adapter = lora.initial_adapter(SHAPES, config.model.rank, config.model.alpha_per_rank, seed=1)
    return RunState(adapter)


@dataclass
class Outcome:
    """A finished run, with its phases and what was saved after every round."""

    strategy: RateMyLoRA
    result: Adapter | None = None
    states: dict[int, RunState] = field(default_factory=dict)
    history: dict[int, RoundRecord] = field(default_factory=dict)
    phases: list[tuple[int, str]] = field(default_factory=list)

    def penalties(self, server_round: int) -> dict[str, float]:
        """Return w_t by site."""
        entries = self.history[server_round].sites
        return {name: e["penalty"] for name, e in entries.items() if "penalty" in e}

    def refused(self, server_round: int) -> dict[tuple[str, str], str]:
        """Return the reasons by (site, phase)."""
        found = self.history[server_round].refused
        return {(r["site"], r["phase"]): r["reason"] for r in found}


def prepare(
    config: RunConfig,
    state: RunState | None = None,
    events: Mapping[int, Callable[[], object]] | None = None,
) -> Outcome:
    """Return a strategy that records what it saves; ``events`` happen after a round is saved."""
    outcome = SimpleNamespace()

    def on_round(state: RunState, record: RoundRecord) -> None:
        saved = replace(state, previous=dict(state.previous), held=dict(state.held))
        assert record.server_round not in outcome.made.history, "a round was recorded twice"
        outcome.made.states[record.server_round] = saved
        outcome.made.history[record.server_round] = record
        if events and record.server_round in events:
            events[record.server_round]()

    phases: list[tuple[int, str]] = []
    strategy = RateMyLoRA(
        config,
        shapes=Shapes(SHAPES, {}),
        state=state or initial_state(config),
        on_round=on_round,
        on_phase=lambda *at: phases.append(at),
    )
    outcome.made = Outcome(strategy, phases=phases)
    made: Outcome = outcome.made
    return made


def play(
    config: RunConfig,
    grid: FakeGrid,
    state: RunState | None = None,
    events: Mapping[int, Callable[[], object]] | None = None,
) -> Outcome:
    """Run the whole strategy."""
    outcome = prepare(config, state, events)
    go_on(outcome, grid)
    return outcome


def go_on(outcome: Outcome, grid: FakeGrid) -> None:
    """Start a prepared strategy and read its result."""
    strategy = outcome.strategy
    initial = strategy.arrays()
    result = strategy.start(grid, initial, num_rounds=strategy.config.federation.rounds)
    tensors = records.record_to_tensors(result.arrays)
    outcome.result = Adapter.from_tensors(tensors, strategy.config.model.alpha_per_rank)
