"""The shipped ClientApp with one bad site, for :mod:`benchmarks.robustness`.

The environment variable ``ATTACK_PARTITION`` names the bad site, ``ATTACK`` what it does.
"""

import os
import random
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from client_app.app import answer
from common import messages, records

Values = NDArray[np.float32]
Poison = Callable[[str, Values, Values, np.random.Generator], Values]
"""Maps a factor's name, the values received, the trained values and a generator to values sent."""
App = Callable[[Message, Context], Message]
Lie = Callable[[int, float, random.Random], float]
"""Maps the round, the true Dice and a generator to the Dice that the site reports."""


def _noise(_name: str, _start: Values, own: Values, generator: np.random.Generator) -> Values:
    """Return normal noise of the same norm."""
    noise = generator.standard_normal(own.shape)
    return noise * (np.linalg.norm(own) / np.linalg.norm(noise))


POISONS: dict[str, Poison] = {
    "sign flip": lambda _name, start, own, _: 2 * start - own,
    "× 100": lambda name, _start, own, _: 100 * own if name.endswith("lora_B") else own,
    "noise": _noise,
}
"""Attacks on the adapter, by name; ``sign flip`` reverses the change of every factor."""
LIES: dict[str, Lie] = {
    "Dice always 1": lambda *_: 1.0,
    "Dice always 0": lambda *_: 0.0,
    "Dice at random": lambda _t, _dice, generator: generator.random(),
    "Dice ever falling": lambda t, *_: 0.9 - 0.001 * t,
    "Dice falling fast": lambda t, *_: max(0.0, 0.9 - 0.1 * t),
}
"""Attacks on the validation, by name."""


def misbehave(message: Message, context: Context, call_next: App) -> Message:
    """Answer as the shipped app does, but falsify the bad site's answer; a Flower client mod."""
    attack = os.environ.get("ATTACK", "")
    bad = str(context.node_config.get("partition-id")) == os.environ.get("ATTACK_PARTITION")
    start = message.content.array_records.get(messages.ADAPTER)
    config = message.content.config_records[messages.CONFIG]
    server_round = int(str(config.get("server-round", 0)))
    kind = message.metadata.message_type
    reply = call_next(message, context)
    if bad and kind == messages.TRAIN and attack in POISONS:
        arrays = reply.content.array_records
        assert start is not None
        arrays[messages.ADAPTER] = poisoned(attack, start, arrays[messages.ADAPTER], server_round)
    if bad and kind == messages.VALIDATE and attack in LIES:
        metrics = reply.content.metric_records[messages.METRICS]
        generator = random.Random(server_round)  # noqa: S311
        metrics["dice"] = LIES[attack](server_round, float(str(metrics["dice"])), generator)
    return reply


def poisoned(attack: str, start: ArrayRecord, own: ArrayRecord, seed: int) -> ArrayRecord:
    """Return the adapter ``own``, trained from ``start``, after an attack."""
    generator = np.random.default_rng(seed)
    before, after = records.record_to_tensors(start), records.record_to_tensors(own)
    values = {
        name: POISONS[attack](name, before[name].numpy(), value.numpy(), generator)
        for name, value in after.items()
    }
    return records.tensors_to_record(
        {name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()}
    )


app = ClientApp(mods=[misbehave])
app.query("describe")(answer)
app.train()(answer)
app.evaluate()(answer)
app.evaluate("test")(answer)
