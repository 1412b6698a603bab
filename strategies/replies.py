"""What a site may send: every reply is read and checked here before anything uses it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord

from common import records
from common.weights import Parameters


class ReplyError(Exception):
    """A reply that cannot be used; the message says why.

    Parameters
    ----------
    reason
        Why.
    site
        Who the site says that it is, where it says so.
    """

    def __init__(self, reason: str, site: str = "") -> None:
        super().__init__(reason)
        self.site = site


@dataclass(frozen=True)
class Update:
    """What a site sends after local training."""

    parameters: Parameters
    examples: int
    loss: float
    seconds: float
    start_dice: float | None
    """Validation Dice of what training started from, where the run asks for it."""
    local_dice: float | None
    """Validation Dice of what training gave, where the run asks for it."""


@dataclass(frozen=True)
class Validation:
    """What a site reports of a merge, and of others where it was sent more than one."""

    dice: float
    volumes: int
    others: tuple[float, ...] = ()

    @property
    def all_dice(self) -> tuple[float, ...]:
        """Dice of the merge and of the others."""
        return (self.dice, *self.others)


Reader = Callable[[ArrayRecord | None], Parameters]
"""Reads a site's arrays; raises ValueError where they are not what was agreed."""


def read_update(message: Message, read: Reader) -> Update:
    """Read a site's reply to a training message.

    Raises
    ------
    ReplyError
        The site failed, or its adapter or numbers are not what was agreed.
    """
    _raise_site_error(message)
    arrays = message.content.get(records.ADAPTER)
    try:
        parameters = read(arrays if isinstance(arrays, ArrayRecord) else None)
    except ValueError as error:
        raise ReplyError(str(error)) from None
    metrics = _metrics(message)
    examples = _number(metrics, "num-examples")
    if not examples >= 1:
        raise ReplyError(f"num-examples is {examples:g}, expected at least 1")
    start, local = (
        _dice(metrics, key) if key in metrics else None for key in ("start-dice", "local-dice")
    )
    loss, seconds = _number(metrics, "loss"), _number(metrics, "seconds")
    return Update(parameters, int(examples), loss, seconds, start, local)


def read_validation(message: Message) -> Validation:
    """Read P, the mean validation Dice of a site.

    Raises
    ------
    ReplyError
        The site failed, or a Dice is not a number in [0, 1].
    """
    _raise_site_error(message)
    metrics = _metrics(message)
    others: list[float] = []
    while (key := f"dice-{len(others) + 1}") in metrics:
        others.append(_dice(metrics, key))
    volumes = _number(metrics, "num-examples") if "num-examples" in metrics else 0
    return Validation(_dice(metrics, "dice"), int(volumes), tuple(others))


def read_test(message: Message) -> dict[str, float]:
    """Read a site's final test scores.

    Raises
    ------
    ReplyError
        The site failed or sent no scores.
    """
    _raise_site_error(message)
    return {
        key: _number({key: value}, key, finite=False) for key, value in _metrics(message).items()
    }


def read_description(message: Message) -> Mapping[str, object]:
    """Read what a site says of itself: its facts as one flat mapping.

    Raises
    ------
    ReplyError
        The site failed or left a fact out.
    """
    _raise_site_error(message)
    config = message.content.get(records.CONFIG)
    if not isinstance(config, ConfigRecord):
        raise ReplyError("the reply does not describe the site")
    facts = {**config, **_metrics(message)}
    for key, kind in (("site", str), ("base-sha256", str), ("train-examples", int)):
        if not isinstance(facts.get(key), kind):
            raise ReplyError(f"{key} is {facts.get(key)!r}, expected a {kind.__name__}")
    limit = facts.get("max-rank", 1)
    if not isinstance(limit, int) or limit < 1:
        raise ReplyError(f"max-rank is {limit!r}, expected a whole number of at least 1")
    if facts["train-examples"] < 1:  # type: ignore[operator]
        raise ReplyError("the site has no training examples")
    return facts


def payload(message: Message) -> int:
    """Return the bytes of the arrays in a message."""
    if message.has_error():
        return 0
    return sum(records.payload_bytes(arrays) for arrays in message.content.array_records.values())


def _raise_site_error(message: Message) -> None:
    if message.has_error():
        reason = (message.error.reason or "").strip().splitlines()
        raise ReplyError(reason[-1] if reason else f"error code {message.error.code}")
    config = message.content.get(records.CONFIG)
    if isinstance(config, ConfigRecord) and records.ERROR in config:
        raise ReplyError(str(config[records.ERROR]), str(config.get("site", "")))


def _metrics(message: Message) -> Mapping[str, object]:
    metrics = message.content.get(records.METRICS)
    if not isinstance(metrics, MetricRecord):
        raise ReplyError("the reply has no metrics")
    return metrics


def _number(metrics: Mapping[str, object], key: str, *, finite: bool = True) -> float:
    value = metrics.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ReplyError(f"{key} is {value!r}, expected a number")
    if finite and not math.isfinite(value):
        raise ReplyError(f"{key} is {value}, expected a finite number")
    return value


def _dice(metrics: Mapping[str, object], key: str) -> float:
    value = _number(metrics, key)
    if not 0 <= value <= 1:
        raise ReplyError(f"{key} is {value:g}, expected a Dice between 0 and 1")
    return value
