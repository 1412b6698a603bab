"""The messages between server and sites: one class for each request and each reply.

Whoever sends a message builds its class and calls ``to_record``; whoever reads one calls
``from_record`` of the same class. A reply is checked twice: ``from_record`` checks its form, that
is which records, names and types it has, and a site's egress guard lets no other form out;
``check`` checks the values, and the server uses no reply that fails it. The arrays of a message
are packed and read by :mod:`common.records`.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from common.labels import STRUCTURES
from common.method import BOTH, Half
from common.weights import Parameters

ADAPTER = "adapter"
"""Key of the adapter, or the weights, in a message."""
FOLD = "fold"
"""Key of an adapter that the site folds into its base."""
FOLDED = "folded"
"""Key of all that was folded so far, dense, for a site that does not hold it."""
OTHER = "other-{}"
"""Key of another adapter to rate, from ``other-1``."""
CONFIG = "config"
"""Key of the run configuration, and of what a site says of itself."""
METRICS = "metrics"
"""Key of the numbers that a site reports."""
ERROR = "error"
"""Key in a reply's configuration: what is wrong at the site, for people."""

DESCRIBE = "query.describe"
TRAIN = "train"
VALIDATE = "evaluate"
TEST = "evaluate.test"

SITE_NAME = re.compile(r"[^\x00-\x1f]{1,100}")
SHA256 = re.compile(r"[0-9a-f]{64}")

CANNOT = "it cannot; the site's own log says why"
UNEXPECTED = "unexpected error; the site's own log says where"
REFUSED = "the site's egress guard refused the reply"
NOT_HELD = "this site does not hold "
NUMBERED = (
    r"rank \d+ is asked, this site allows \d+",
    r"\d+ epochs are asked, this site allows \d+",
    r"the run is of (another app|version [\w.+]+), this site has version [\w.+]+",
    r"all weights are asked, this site sends adapters alone",
    r"this site does not serve (train|validate|test)",
    NOT_HELD + r"(the \d+ merges so far|its factors of round \d+)",
)
SENTENCES = re.compile("|".join((*map(re.escape, (CANNOT, UNEXPECTED, REFUSED)), *NUMBERED)))
"""All that a site says when something is wrong; file names and patients are in its own log."""

R = TypeVar("R", bound="Reply")
Reader = Callable[[ArrayRecord | None], Parameters]
"""Reads the arrays of a reply; raises ValueError where they are not what was agreed."""


class ReplyError(Exception):
    """A reply that cannot be used; the message says why.

    Attributes
    ----------
    lost
        Whether the site says that it does not hold what the request builds on.
    """

    def __init__(self, reason: str, *, lost: bool = False) -> None:
        super().__init__(reason)
        self.lost = lost


@dataclass(frozen=True)
class Request:
    """What the server asks of a site in one message.

    Attributes
    ----------
    config
        The run's configuration.
    run_id
        Tells this run from every other; a resumed run has the same.
    server_round
        The round that the message belongs to; 0 before the first.
    site_rank
        The rank at which the site uses an adapter, 0 where there is none.
    run_rank
        The highest rank of the run.
    folds
        How many merges must be folded into the base before what the message brings.
    held
        The last round in which this site trained in this run, so that it holds what it kept of it;
        0 for a site that need not hold anything.
    adapter
        The adapter, its halves or the weights to use.
    fold
        An adapter to fold into the base.
    folded
        All that was folded so far, dense by layer.
    others
        More adapters to rate.
    """

    config: RunConfig
    run_id: str
    server_round: int = 0
    site_rank: int = 0
    run_rank: int = 0
    folds: int = 0
    held: int = 0
    adapter: ArrayRecord | None = None
    fold: ArrayRecord | None = None
    folded: ArrayRecord | None = None
    others: tuple[ArrayRecord, ...] = ()

    kind: ClassVar[str]
    """Flower's type of the message."""

    @property
    def last(self) -> int:
        """The round of the merge that the message brings."""
        return self.server_round - (self.kind == TRAIN)

    def to_record(self) -> RecordDict:
        """Return the message's content."""
        numbers = {_key(name): getattr(self, name) for name in NUMBERS}
        config = {**self.config.to_flat(), "run-id": self.run_id, **numbers}
        arrays = {ADAPTER: self.adapter, FOLD: self.fold, FOLDED: self.folded}
        arrays |= {OTHER.format(n): other for n, other in enumerate(self.others, start=1)}
        content = RecordDict({key: value for key, value in arrays.items() if value is not None})
        content[CONFIG] = ConfigRecord(config)
        return content

    @classmethod
    def from_record(cls, content: RecordDict) -> Self:
        """Read what :meth:`to_record` made.

        Raises
        ------
        UserError
            The configuration is not one of this version.
        """
        flat: dict[str, Any] = dict(content.config_records.get(CONFIG, {}))
        run_id = flat.pop("run-id", None)
        numbers = {name: flat.pop(_key(name), None) for name in NUMBERS}
        for name, value in {"run_id": run_id, **numbers}.items():
            expected = str if name == "run_id" else int
            if type(value) is not expected:
                raise UserError(
                    f"message from the server: {_key(name)}: found {value!r}, expected a "
                    f"{expected.__name__}"
                )
        arrays = content.array_records
        others = (OTHER.format(number) for number in range(1, len(arrays) + 1))
        return cls(
            RunConfig.from_flat(flat, "message from the server"),
            run_id,
            **numbers,
            adapter=arrays.get(ADAPTER),
            fold=arrays.get(FOLD),
            folded=arrays.get(FOLDED),
            others=tuple(arrays[key] for key in others if key in arrays),
        )


NUMBERS = ("server_round", "site_rank", "run_rank", "folds", "held")
"""The whole numbers of a request, which travel beside the run's configuration."""


class Describe(Request):
    """Ask a site who it is, how many cases it has and which base file."""

    kind = DESCRIBE


class Train(Request):
    """Ask a site to train what the message brings."""

    kind = TRAIN


class Validate(Request):
    """Ask a site to rate what the message brings, or its base, on its validation patients."""

    kind = VALIDATE


class Test(Request):
    """Ask a site for scores of its base and of what the message brings on its test patients."""

    kind = TEST


REQUESTS: Mapping[str, type[Request]] = {
    request.kind: request for request in (Describe, Train, Validate, Test)
}


def read_request(message: Message) -> Request:
    """Return the request in a message.

    Raises
    ------
    UserError
        It is not one of this version's.
    """
    kind = message.metadata.message_type
    if kind not in REQUESTS:
        raise UserError(f"message from the server: found {kind!r}, expected one of {[*REQUESTS]}")
    return REQUESTS[kind].from_record(message.content)


def _number(key: str, *, low: float = 0, high: float = math.inf, **default: Any) -> Any:
    """Declare a number of a reply: its key and its range [low, high]."""
    return field(metadata={"key": key, "low": low, "high": high}, **default)


@dataclass(frozen=True)
class Reply:
    """What a site answers; fields that are declared with ``_number`` travel as metrics."""

    undefined: ClassVar[bool] = False
    """Whether a further number may be NaN."""

    def more(self) -> Mapping[str, float]:
        """Return further numbers by key."""
        return {}

    def numbers(self) -> dict[str, int | float]:
        """Return all numbers by key."""
        found = {key: getattr(self, spec.name) for key, spec in _numbers(type(self)).items()}
        return {**{key: value for key, value in found.items() if value is not None}, **self.more()}

    def check(self) -> None:
        """Check the values; raises ReplyError where one is not finite or out of range."""
        specs = _numbers(type(self))
        for key, value in self.numbers().items():
            if key in specs:
                spec = specs[key]
                whole = spec.type in (int, int | None)
                _check_value(key, value, spec.metadata["low"], spec.metadata["high"], whole)
            elif not (self.undefined and math.isnan(value)):
                _check_value(key, value, 0, 1 if "dice" in key else math.inf)

    def to_record(self) -> RecordDict:
        """Return the message's content."""
        return RecordDict({METRICS: MetricRecord(self.numbers())})  # type: ignore[arg-type]

    @classmethod
    def _read(
        cls, content: RecordDict, names: Iterable[str] = (), more: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return the numbers by field, and those called ``more`` by key.

        Other records than the metrics and ``names``, and other numbers, are refused.
        """
        check_names("record", content, {METRICS, *names})
        metrics = content.get(METRICS)
        if not isinstance(metrics, MetricRecord):
            raise ReplyError("the reply has no metrics")
        known = _numbers(cls)
        check_names("metric", metrics, {*known, *more})
        values: dict[str, Any] = {}
        for key in (*known, *more):
            value = metrics.get(key)
            if key in metrics or (key in known and known[key].default is MISSING):
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ReplyError(f"{key} is {value!r}, expected a number")
                values[known[key].name if key in known else key] = value
        return values


@dataclass(frozen=True)
class Description(Reply):
    """What a site tells the server before anything else: who it is, and counts."""

    name: str
    base_sha256: str
    train_examples: int = _number("train-examples")
    """Slices in the training split."""
    train_cases: int = _number("train-cases", default=0)
    val_cases: int = _number("val-cases", default=0)
    test_cases: int = _number("test-cases", default=0)
    max_rank: int | None = _number("max-rank", low=1, default=None)
    """The highest rank that the site's own limits allow; None where there is no limit."""

    def check(self) -> None:
        """Check the counts; a site without training slices cannot take part."""
        super().check()
        if self.train_examples < 1:
            raise ReplyError("the site has no training examples")

    def to_record(self) -> RecordDict:
        """Return the message's content."""
        content = super().to_record()
        content[CONFIG] = ConfigRecord({"site": self.name, "base-sha256": self.base_sha256})
        return content

    @classmethod
    def from_record(cls, content: RecordDict) -> Self:
        """Read what :meth:`to_record` made; raises ReplyError where it is of another form."""
        config = content.get(CONFIG)
        if not isinstance(config, ConfigRecord):
            raise ReplyError("the reply does not describe the site")
        patterns = {"site": SITE_NAME, "base-sha256": SHA256}
        check_names("config", config, patterns)
        for key, pattern in patterns.items():
            value = config.get(key)
            if not isinstance(value, str):
                raise ReplyError(f"{key} is {value!r}, expected a str")
            if not pattern.fullmatch(value):
                raise ReplyError(f"{key} is not of its form")
        return cls(config["site"], config["base-sha256"], **cls._read(content, {CONFIG}))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Update(Reply):
    """What a site has after local training, and sends as far as the method says.

    Attributes
    ----------
    parameters
        The trained adapter, or weights.
    examples
        Slices in the training split.
    loss
        Mean of the last epoch.
    seconds
        How long the training took.
    start_dice
        Validation Dice of what training started from, where the run asks for it.
    local_dice
        Validation Dice of what training gave, where the run asks for it.
    """

    parameters: Parameters
    examples: int = _number("num-examples", low=1)
    loss: float = _number("loss", low=-math.inf)
    seconds: float = _number("seconds", low=-math.inf)
    start_dice: float | None = _number("start-dice", high=1, default=None)
    local_dice: float | None = _number("local-dice", high=1, default=None)

    def to_record(self, halves: Iterable[Half] = BOTH) -> RecordDict:
        """Return the message's content, with these halves of the factors or all weights."""
        content = super().to_record()
        if not isinstance(self.parameters, Adapter):
            content[ADAPTER] = records.tensors_to_record(self.parameters.tensors())
        elif halves := tuple(halves):
            content[ADAPTER] = records.halves_to_record(self.parameters, halves)
        return content

    @classmethod
    def from_record(cls, content: RecordDict, read: Reader) -> Self:
        """Read what :meth:`to_record` made; raises ReplyError where it is of another form.

        ``read`` checks the arrays and adds the factors that were not sent.
        """
        arrays = content.get(ADAPTER)
        if not (arrays is None or isinstance(arrays, ArrayRecord)):
            raise ReplyError("the reply has no adapter")
        try:
            parameters = read(arrays)
        except ValueError as error:
            raise ReplyError(str(error)) from None
        return cls(parameters, **cls._read(content, {ADAPTER}))


@dataclass(frozen=True)
class Validation(Reply):
    """What a site reports of a merge, and of others where it was sent more than one.

    Attributes
    ----------
    dice
        P: the mean Dice on the validation patients.
    volumes
        Number of validation volumes.
    others
        Dice of the other adapters in the request, in their order.
    """

    dice: float = _number("dice", high=1)
    volumes: int = _number("num-examples", default=0)
    others: tuple[float, ...] = ()

    @property
    def all_dice(self) -> tuple[float, ...]:
        """Dice of the merge and of the others."""
        return (self.dice, *self.others)

    def more(self) -> Mapping[str, float]:
        """Return the Dice of the others as ``dice-1`` and so on."""
        return dict(zip(_others(len(self.others)), self.others, strict=True))

    @classmethod
    def from_record(cls, content: RecordDict, others: int = 0) -> Self:
        """Read what :meth:`to_record` made; raises ReplyError where it is of another form.

        ``others`` is the number of other adapters that the request brought.
        """
        values = cls._read(content, more=_others(others))
        if missing := [key for key in _others(others) if key not in values]:
            raise ReplyError(f"{missing[0]} is missing")
        found = tuple(values.pop(key) for key in _others(others))
        return cls(**values, others=found)


SCORES = tuple(
    f"{model}.{metric}.{structure}"
    for model in ("base", "test")
    for metric in ("dice", "hd95_mm")
    for structure in (*STRUCTURES, "mean")
)
"""Names of the final test's scores: of the base, and of what the run ended with."""


@dataclass(frozen=True)
class TestScores(Reply):
    """Means over a site's test patients.

    Attributes
    ----------
    cases
        Number of test volumes.
    scores
        By the names of ``SCORES``; NaN where no patient has the structure.
    """

    cases: int = _number("cases")
    scores: Mapping[str, float] = field(default_factory=dict)

    undefined = True

    def more(self) -> Mapping[str, float]:
        """Return the scores."""
        return self.scores

    @classmethod
    def from_record(cls, content: RecordDict) -> Self:
        """Read what :meth:`to_record` made; raises ReplyError where it is of another form."""
        values = cls._read(content, more=SCORES)
        return cls(values.pop("cases"), values)


@dataclass(frozen=True)
class Failure:
    """One sentence that says why a site does not do what it was asked."""

    reason: str

    @property
    def lost(self) -> bool:
        """Whether the site does not hold what the request builds on."""
        return self.reason.startswith(NOT_HELD)

    def to_record(self) -> RecordDict:
        """Return the message's content."""
        return RecordDict({CONFIG: ConfigRecord({ERROR: self.reason})})

    def check(self) -> None:
        """Check that the sentence is on the list of those that may leave a hospital."""
        if not SENTENCES.fullmatch(self.reason):
            raise ReplyError("an error text of its own")

    @classmethod
    def found_in(cls, content: RecordDict) -> Self | None:
        """Return the failure that a reply tells of; None where it tells of none."""
        config = content.get(CONFIG)
        if not (isinstance(config, ConfigRecord) and ERROR in config):
            return None
        return cls(str(config[ERROR]))


def read_reply(message: Message, read: Callable[[RecordDict], R]) -> R:
    """Return a site's reply as its class, with its values checked.

    Parameters
    ----------
    message
        What the site sent, or Flower in its place.
    read
        ``from_record`` of the reply's class.

    Raises
    ------
    ReplyError
        The site failed, or its reply is not what was asked for.
    """
    if message.has_error():
        lines = (message.error.reason or "").strip().splitlines()
        raise ReplyError(lines[-1] if lines else f"error code {message.error.code}")
    if (failure := Failure.found_in(message.content)) is not None:
        raise ReplyError(failure.reason, lost=failure.lost)
    reply = read(message.content)
    reply.check()
    return reply


def payload(message: Message) -> int:
    """Return the bytes of the tensors in a message."""
    if message.has_error():
        return 0
    return sum(records.payload_bytes(arrays) for arrays in message.content.array_records.values())


def check_names(what: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    """Check that nothing has a name that is not allowed.

    Raises
    ------
    ReplyError
        Something has.
    """
    if extra := sorted(set(found) - set(allowed)):
        raise ReplyError(f"{what} {extra[0]!r} is not on the list")


def _key(name: str) -> str:
    return name.replace("_", "-")


def _others(count: int) -> list[str]:
    return [f"dice-{number}" for number in range(1, count + 1)]


def _numbers(cls: type[Reply]) -> dict[str, Any]:
    """Return the fields of a reply that travel as metrics, by key."""
    return {spec.metadata["key"]: spec for spec in fields(cls) if "key" in spec.metadata}


def _check_value(key: str, value: float, low: float, high: float, whole: bool = False) -> None:
    if not math.isfinite(value):
        raise ReplyError(f"{key} is {value}, expected a finite number")
    if whole and not isinstance(value, int):
        raise ReplyError(f"{key} is {value:g}, expected a whole number")
    if not low <= value <= high:
        expected = "a Dice between 0 and 1" if high == 1 else f"at least {low:g}"
        raise ReplyError(f"{key} is {value:g}, expected {expected}")
