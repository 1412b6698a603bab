"""The messages between server and sites: one class for each request and each reply.

The sender builds the class and calls ``to_record``; the receiver calls ``from_record`` of the same
class. A reply is checked in two steps. ``from_record`` checks its form: which records, names and
types it has. A site's egress guard lets no other form out. ``check`` checks the values, and the
server uses no reply that fails it. :mod:`common.records` packs and reads the arrays.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from common import records
from common.adapter import Adapter
from common.config import HIGHEST_RANK, MOST_ROUNDS, RunConfig
from common.errors import UserError
from common.labels import STRUCTURES
from common.method import BOTH, Half
from common.options import Value, keys_of, option, parse, to_flat
from common.text import A_NAME, clean, is_name
from common.weights import Parameters

# The names of the records in a message.
ADAPTER = "adapter"  # the adapter, or the weights
FOLD = "fold"  # an adapter that the site folds into its base
FOLDED = "folded"  # everything folded so far, dense, for a site that does not hold it
OTHER = "other-{}"  # another adapter to rate, counted from 1
CONFIG = "config"  # a request's configuration and numbers; in a reply, the site's name and base
METRICS = "metrics"  # the numbers that a site reports

ERROR = "error"
"""Key in a reply's ``CONFIG``: the sentence that says what is wrong at the site."""
AUDIT = "audit"
"""Key in a reply's ``CONFIG``: the SHA-256 of the last line in the site's audit log."""
REQUIRED = ("run-id", "server-round", "site-rank", "run-rank", "folds", "held")
"""Keys that every request has beside the run's configuration."""

# Flower's types of the messages.
DESCRIBE = "query.describe"
TRAIN = "train"
VALIDATE = "evaluate"
TEST = "evaluate.test"

SERVER = "message from the server"
"""The source that errors about a request name."""
SHA256 = re.compile(r"[0-9a-f]{64}")

HIGHEST_NUMBER = 10**9
"""The most that any number in a reply may be, such as a count or a loss."""
LONGEST_MM = 10_000
"""The longest distance in a reply, in mm."""

CANNOT = "the site failed; its own log says why"
UNEXPECTED = "unexpected error; the site's own log says where"
REFUSED = "the site's egress guard refused the reply"
SPENT = "this site has spent its privacy budget"
TOO_FEW = "this site has fewer patients than it requires behind each number that leaves it"
OTHER_NETWORK = "the run is for another network than this site's base model"
MEMORY = "the run needs more memory or disk than this site allows"
NOT_HELD = "this site does not hold "
NOT_APPROVED = "this site has not approved the run"
ANSWERED = "this site answered another request for this round, or for a later one"
TOO_FAR = "the adapter is too far from what this site trained last"
ASKED = "{} {} are asked, this site allows {}"
"""A number, what is counted and the site's limit of it."""
NUMBERED = (
    r"rank \d+ is asked, this site allows \d+",
    r"\d+ (epochs|rounds|messages|adapters to rate|MiB) are asked, this site allows \d+",
    r"this run does not ask for a (train|validate|test) of round \d+",
    r"the run is of (another app|version [\w.+]+), this site has version [\w.+]+",
    r"all weights are asked, this site sends adapters alone",
    r"this site does not serve (train|validate|test)",
    r"(pool|train-patients|val-patients|validate-on) is set, which is for simulations only",
    r"[a-z0-9-]+ = [\d.e+-]+ is asked, this site allows [\d.e+-]+ to [\d.e+-]+",
    r"[a-z0-9-]+ has a value that this site does not allow",
    NOT_HELD + r"(the \d+ merges so far|its factors of round \d+)",
)
FIXED = (
    CANNOT, UNEXPECTED, REFUSED, SPENT, TOO_FEW, OTHER_NETWORK, MEMORY, NOT_APPROVED, ANSWERED,
    TOO_FAR,
)  # fmt: skip
SENTENCES = re.compile("|".join((*map(re.escape, FIXED), *NUMBERED)))
"""The only sentences in which a site says what is wrong; its own log names files and patients."""

R = TypeVar("R", bound="Reply")
Reader = Callable[[ArrayRecord | None], Parameters]
"""Reads the arrays of a reply; raises ValueError where they are not what was agreed."""


class ReplyError(Exception):
    """A reply that cannot be used; the text says why.

    ``lost`` is True where the site says that it does not hold what the request builds on; ``site``
    is its name where it says it. The text may quote the site, so it is cut and cleaned here.
    """

    def __init__(self, reason: str, *, lost: bool = False, site: str = "") -> None:
        super().__init__(clean(reason))
        self.lost, self.site = lost, site


@dataclass(frozen=True)
class Request:
    """A request of the server to a site."""

    config: RunConfig
    run_id: str = option(longest=100)
    """Tells this run from every other; a resumed run keeps it."""
    server_round: int = option(0, low=0, high=MOST_ROUNDS)
    """The round that the message belongs to; 0 before the first."""
    site_rank: int = option(0, low=0, high=HIGHEST_RANK)
    """The rank at which the site uses an adapter; 0 where there is none."""
    run_rank: int = option(0, low=0, high=HIGHEST_RANK)
    """The highest rank of the run."""
    folds: int = option(0, low=0, high=MOST_ROUNDS)
    """Number of merges that the site must have folded into its base before it uses this message."""
    held: int = option(0, low=0, high=MOST_ROUNDS)
    """The last round in which this site trained in this run, of which it must still hold what it
    kept; 0 for a site that need not hold anything."""
    adapter: ArrayRecord | None = None
    """The adapter, its halves or the weights to use."""
    fold: ArrayRecord | None = None
    """An adapter to fold into the base."""
    folded: ArrayRecord | None = None
    """Everything folded so far: a dense weight change for each layer."""
    others: tuple[ArrayRecord, ...] = ()
    """More adapters to rate."""

    kind: ClassVar[str]
    """Flower's type of the message."""

    @property
    def last(self) -> int:
        """The round of the merge that the message brings."""
        return self.server_round - (self.kind == TRAIN)

    def to_record(self) -> RecordDict:
        """Return the message's content."""
        arrays = {ADAPTER: self.adapter, FOLD: self.fold, FOLDED: self.folded}
        arrays |= {OTHER.format(n): other for n, other in enumerate(self.others, start=1)}
        content = RecordDict({key: value for key, value in arrays.items() if value is not None})
        flat = to_flat(self)
        content[CONFIG] = ConfigRecord({k: v for k, v in flat.items() if isinstance(v, Value)})
        return content

    @classmethod
    def from_record(cls, content: RecordDict) -> Self:
        """Read what :meth:`to_record` made; raises UserError where it is not of this version."""
        flat: Mapping[str, object] = content.config_records.get(CONFIG, {})
        for key in REQUIRED:
            if key not in flat:
                raise UserError(f"{SERVER}: found no {key!r}, expected one")
        arrays = content.array_records
        others = (OTHER.format(number) for number in range(1, len(arrays) + 1))
        return parse(
            cls,
            flat,
            SERVER,
            adapter=arrays.get(ADAPTER),
            fold=arrays.get(FOLD),
            folded=arrays.get(FOLDED),
            others=tuple(arrays[key] for key in others if key in arrays),
        )


class Describe(Request):
    """Asks a site who it is, how many cases it has and which base file."""

    kind = DESCRIBE


class Train(Request):
    """Asks a site to train the adapter or weights of the message."""

    kind = TRAIN


class Validate(Request):
    """Asks a site for the validation Dice of the message's adapters, or of its base."""

    kind = VALIDATE


class Test(Request):
    """Asks a site for the test scores of its base and of the message's adapter or weights."""

    kind = TEST


REQUESTS: Mapping[str, type[Request]] = {
    request.kind: request for request in (Describe, Train, Validate, Test)
}


def read_request(message: Message) -> Request:
    """Return the request in a message; raises UserError where it is not of this version."""
    kind = message.metadata.message_type
    if kind not in REQUESTS:
        raise UserError(f"{SERVER}: found {kind!r}, expected one of {[*REQUESTS]}")
    return REQUESTS[kind].from_record(message.content)


@dataclass(frozen=True)
class Reply:
    """A site's answer; its fields that are declared with ``option`` travel as metrics."""

    undefined: ClassVar[bool] = False
    """Whether the numbers of :meth:`more` may be NaN."""

    def more(self) -> Mapping[str, float]:
        """Return by key the numbers that are not fields of their own: Dice, or distances in mm."""
        return {}

    def numbers(self) -> dict[str, int | float]:
        """Return all numbers by key."""
        own = {key: getattr(self, spec.name) for key, spec in _metrics(type(self)).items()}
        return {key: value for key, value in {**own, **self.more()}.items() if value is not None}

    def check(self) -> None:
        """Check the values; raises ReplyError where one is not finite or out of range."""
        specs = _metrics(type(self))
        for key, value in self.numbers().items():
            if isinstance(value, int) and abs(value) > HIGHEST_NUMBER:
                raise ReplyError(f"{key} is beyond {HIGHEST_NUMBER}")
            if key not in specs and self.undefined and math.isnan(value):
                continue
            whole, low, high = False, 0.0, 1 if "dice" in key else LONGEST_MM
            if key in specs:
                whole = specs[key].type in (int, int | None)
                low = max(specs[key].metadata["low"], -HIGHEST_NUMBER)
                high = min(specs[key].metadata["high"], HIGHEST_NUMBER)
            if not math.isfinite(value):
                raise ReplyError(f"{key} is {value}, expected a finite number")
            if whole and not isinstance(value, int):
                raise ReplyError(f"{key} is {value:g}, expected a whole number")
            if not low <= value <= high:
                expected = f"at least {low:g}" if value < low else f"at most {high:g}"
                expected = "a Dice between 0 and 1" if "dice" in key else expected
                raise ReplyError(f"{key} is {value:g}, expected {expected}")

    def to_record(self) -> RecordDict:
        """Return the message's content, with its numbers rounded by :func:`rounded`."""
        numbers = {key: rounded(key, value) for key, value in self.numbers().items()}
        return RecordDict({METRICS: MetricRecord(numbers)})  # type: ignore[arg-type]

    def check_decimals(self) -> None:
        """Check that no number has more decimals than may leave; raises ReplyError."""
        for key, value in self.numbers().items():
            if rounded(key, value) != value and not math.isnan(value):
                raise ReplyError(f"{key} has more decimals than may leave")

    @classmethod
    def _read(
        cls, content: RecordDict, names: Iterable[str] = (), more: Iterable[str] = ()
    ) -> dict[str, Any]:
        """Return the metrics: those of fields by field name, those called ``more`` by key.

        Raises ReplyError for other records than the metrics and ``names``, for other metrics, and
        where one of ``more`` is missing.
        """
        check_names("record", content, {METRICS, *names})
        metrics = content.get(METRICS)
        if not isinstance(metrics, MetricRecord):
            raise ReplyError("the reply has no metrics")
        specs = _metrics(cls)
        check_names("metric", metrics, {*specs, *more})
        values: dict[str, Any] = {}
        for key in (*specs, *more):
            if key in metrics or key not in specs or specs[key].default is MISSING:
                value = metrics.get(key)
                if isinstance(value, bool) or not isinstance(value, int | float):
                    raise ReplyError(f"{key} is {value!r}, expected a number")
                values[specs[key].name if key in specs else key] = value
        return values


@dataclass(frozen=True)
class Description(Reply):
    """A site's name, base file and amount of data, which it tells the server first."""

    name: str
    base_sha256: str
    train_examples: int = option(low=0)
    """Slices in the training split."""
    train_cases: int = option(0, low=0)
    val_cases: int = option(0, low=0)
    test_cases: int = option(0, low=0)
    max_rank: int | None = option(None, low=1)
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
        check_names("config", config, {"site", "base-sha256"})
        name, sha256 = config.get("site"), config.get("base-sha256")
        if not is_name(name):
            raise ReplyError(f"site is {clean(repr(name))}, expected {A_NAME}")
        if not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
            raise ReplyError(f"base-sha256 is {clean(repr(sha256))}, expected a SHA-256")
        return cls(name, sha256, **cls._read(content, {CONFIG}))


@dataclass(frozen=True)
class Update(Reply):
    """The result of a site's local training."""

    parameters: Parameters
    """The trained adapter or weights; the method decides which part of an adapter is sent."""
    examples: int = option(key="num-examples", low=1)
    """Slices in the training split."""
    seconds: float = option(low=0)
    """Duration of the training, in seconds."""
    loss: float | None = option(None)
    """Mean training loss of the last epoch; a site that trains with differential privacy sends
    none."""
    start_dice: float | None = option(None, low=0, high=1)
    """Validation Dice of what training started from, where the run asks for it."""
    local_dice: float | None = option(None, low=0, high=1)
    """Validation Dice of what training gave, where the run asks for it."""
    epsilon: float | None = option(None, low=0, high=1e9)
    delta: float | None = option(None, low=0, high=1)
    """What the site's runs have spent of its privacy in all, this round included, where it trains
    with differential privacy."""

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
    """A site's validation Dice of a merge, and of the other adapters that it was sent."""

    dice: float = option(low=0, high=1)
    """P: the mean Dice on the validation patients."""
    volumes: int = option(0, key="num-examples", low=0)
    """Number of validation volumes."""
    others: tuple[float, ...] = ()
    """Dice of the other adapters in the request, in their order."""

    @property
    def all_dice(self) -> tuple[float, ...]:
        """Dice of the merge and of the others."""
        return (self.dice, *self.others)

    def more(self) -> Mapping[str, float]:
        """Return the Dice of the others as ``dice-1`` and so on."""
        return dict(zip(_other_keys(len(self.others)), self.others, strict=True))

    @classmethod
    def from_record(cls, content: RecordDict, others: int = 0) -> Self:
        """Read what :meth:`to_record` made; raises ReplyError where it is of another form.

        ``others`` is the number of other adapters that the request brought.
        """
        keys = _other_keys(others)
        values = cls._read(content, more=keys)
        found = tuple(values.pop(key) for key in keys)
        return cls(**values, others=found)


SCORES = tuple(
    f"{model}.{metric}.{structure}"
    for model in ("base", "test")
    for metric in ("dice", "hd95_mm")
    for structure in (*STRUCTURES, "mean")
)
"""Names of the final test's scores: ``base`` is the base model, ``test`` the run's result."""


@dataclass(frozen=True)
class TestScores(Reply):
    """Means over a site's test patients."""

    cases: int = option(low=0)
    """Number of test volumes."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Scores by the names of ``SCORES``; NaN where no patient has the structure."""

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
    site: str = ""
    """The site's name, where its own code cannot describe it as it has another version."""

    @property
    def lost(self) -> bool:
        """Whether the site does not hold what the request builds on."""
        return self.reason.startswith(NOT_HELD)

    def to_record(self) -> RecordDict:
        """Return the message's content."""
        name = {"site": self.site} if self.site else {}
        return RecordDict({CONFIG: ConfigRecord({ERROR: self.reason, **name})})

    def check(self) -> None:
        """Check that the sentence is one of ``SENTENCES``, which may leave a hospital."""
        if not SENTENCES.fullmatch(self.reason):
            raise ReplyError("an error text that is not on the list")

    @classmethod
    def found_in(cls, content: RecordDict) -> Self | None:
        """Return the failure that a reply reports; None where it reports none."""
        config = content.get(CONFIG)
        if not (isinstance(config, ConfigRecord) and ERROR in config):
            return None
        site = config.get("site")
        return cls(str(config[ERROR]), site if is_name(site) else "")


def seal(content: RecordDict, sha256: str) -> None:
    """Add to a reply the hash of the last line in the site's audit log; none where it is empty.

    A stored reply, which is sent again, keeps the hash that it has.
    """
    if sha256:
        content.config_records.setdefault(CONFIG, ConfigRecord()).setdefault(AUDIT, sha256)


def unsealed(content: RecordDict) -> tuple[RecordDict, str]:
    """Return a reply without what :func:`seal` added, and the hash; an empty one for none.

    Raises
    ------
    ReplyError
        The reply has something else in the hash's place.
    """
    config = content.get(CONFIG)
    if not (isinstance(config, ConfigRecord) and AUDIT in config):
        return content, ""
    sha256 = config[AUDIT]
    if not (isinstance(sha256, str) and SHA256.fullmatch(sha256)):
        raise ReplyError(f"{AUDIT} does not match {SHA256.pattern}")
    rest = RecordDict({key: value for key, value in content.items() if key != CONFIG})
    if own := {key: value for key, value in config.items() if key != AUDIT}:
        rest[CONFIG] = ConfigRecord(own)
    return rest, sha256


def read_reply(message: Message, read: Callable[[RecordDict], R]) -> R:
    """Return a site's reply as its class, with its values checked.

    Parameters
    ----------
    message
        The site's message, or Flower's where the site did not answer.
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
    content, _ = unsealed(message.content)
    if (failure := Failure.found_in(content)) is not None:
        raise ReplyError(failure.reason, lost=failure.lost, site=failure.site)
    reply = read(content)
    reply.check()
    return reply


def rounded(key: str, value: float) -> float:
    """Return a reply's number with the decimals that leave a site.

    Dice and loss have three and distances in mm one: the digits behind them, which no rating needs,
    would tell of single voxels.
    """
    if "dice" in key or key == "loss":
        return round(value, 3)
    return round(value, 1) if "hd95" in key else value


def audit_hash(message: Message) -> str:
    """Return the hash that :func:`seal` added to a reply; an empty one where there is none."""
    try:
        return "" if message.has_error() else unsealed(message.content)[1]
    except ReplyError:
        return ""


def payload(message: Message) -> int:
    """Return the bytes of the tensors in a message."""
    if message.has_error():
        return 0
    return sum(records.payload_bytes(arrays) for arrays in message.content.array_records.values())


def check_names(what: str, found: Iterable[str], allowed: Iterable[str]) -> None:
    """Raise ReplyError where one of the names found is not allowed; ``what`` says of what."""
    if extra := sorted(set(found) - set(allowed)):
        raise ReplyError(f"{what} {extra[0]!r} is not on the list")


def _other_keys(count: int) -> list[str]:
    return [f"dice-{number}" for number in range(1, count + 1)]


def _metrics(cls: type[Reply]) -> dict[str, Any]:
    """Return by key the fields that travel as metrics: those declared with ``option``."""
    return {key: spec for key, spec in keys_of(cls).items() if spec.metadata}
