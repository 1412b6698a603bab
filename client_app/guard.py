"""The egress guard: the last that every reply passes, and nothing but what is listed does.

It wraps the whole ClientApp as a Flower mod. What a reply may hold follows from the request alone:
the factors of an adapter of the network and rank that were asked for, the metrics listed here,
and one of a few fixed sentences when something went wrong. Anything else is stopped at the site
and leaves as "refused". Every message is in the site's audit log before it goes on.
"""

import re
from collections.abc import Callable, Mapping
from logging import ERROR

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common import log

from client_app.assembly import layer_shapes, read_order
from client_app.audit import IN, OUT, PASSED, AuditLog, Request
from client_app.site_settings import SiteSettings
from common import records
from common.errors import UserError
from common.labels import STRUCTURES
from common.model import skeleton, weight_shapes

SCORES = {
    f"{model}.{metric}.{structure}"
    for model in ("base", "test")
    for metric in ("dice", "hd95_mm")
    for structure in (*STRUCTURES, "mean")
}
METRICS: Mapping[str, set[str]] = {
    records.DESCRIBE: {"train-examples", "train-cases", "val-cases", "test-cases", "max-rank"},
    records.TRAIN: {"num-examples", "loss", "seconds", "start-dice", "local-dice"},
    records.VALIDATE: {"dice", "num-examples"},
    records.TEST: {"cases", *SCORES},
}
"""The numbers that may leave a site, by what was asked."""

OTHER_PREFIX = records.OTHER.format("")
"""Of an adapter that a validation message brings to be rated as well, with one Dice for each."""

CANNOT = "it cannot; the site's own log says why"
UNEXPECTED = "unexpected error; the site's own log says where"
REFUSED = "the site's egress guard refused the reply"
NUMBERED = (
    r"rank \d+ is asked, this site allows \d+",
    r"\d+ epochs are asked, this site allows \d+",
    r"the run is of (another app|version [\w.+]+), this site has version [\w.+]+",
    r"all weights are asked, this site sends adapters alone",
    r"this site does not serve (train|validate|test)",
    r"this site does not hold (the \d+ merges so far|its factors of round \d+)",
)
SENTENCES = re.compile("|".join((*map(re.escape, (CANNOT, UNEXPECTED, REFUSED)), *NUMBERED)))
"""All that a site says when something is wrong; file names and patients are in its own log."""

App = Callable[[Message, Context], Message]

SITE_NAME = re.compile(r"[^\x00-\x1f]{1,100}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class EgressError(Exception):
    """A reply holds what may not leave."""


def failure(reason: str) -> RecordDict:
    """Return the content of a reply that says what is wrong."""
    return RecordDict({records.CONFIG: ConfigRecord({records.ERROR: reason})})


def guard(message: Message, context: Context, call_next: App) -> Message:
    """Let a request through to the app and its reply out, both logged; a Flower client mod."""
    try:
        settings = SiteSettings.from_node(context.node_config)
        request = _request(message, context)
        audit = None if settings.simulated else AuditLog(settings.audit_path())
        if audit is not None:
            audit.write(request, IN, PASSED, message)
        reply = call_next(message, context)
        try:
            check_reply(message, reply, any_sentence=settings.simulated)
            verdict = PASSED
        except EgressError as error:
            verdict = f"refused: {error}"
            log(ERROR, "egress guard: %s reply refused: %s", request.kind, error)
        if audit is not None:
            audit.write(request, OUT, verdict, reply)
        return reply if verdict == PASSED else Message(failure(REFUSED), reply_to=message)
    except UserError as error:  # of the site's settings or its log
        log(ERROR, "%s", error)
        reason = str(error) if "partition-id" in context.node_config else CANNOT
        return Message(failure(reason), reply_to=message)
    except Exception as error:
        log(ERROR, "unexpected error", exc_info=error)
        return Message(failure(UNEXPECTED), reply_to=message)


def check_reply(message: Message, reply: Message, *, any_sentence: bool = False) -> None:
    """Check that a reply holds what its request calls for and nothing else.

    Parameters
    ----------
    message
        The request.
    reply
        What is about to leave.
    any_sentence
        Whether error texts may name files, as in a simulation.

    Raises
    ------
    EgressError
        Something is not on the list.
    """
    if reply.has_error():
        raise EgressError("an error text of Flower's own")
    content = reply.content
    kind = message.metadata.message_type
    config = content.get(records.CONFIG)
    if isinstance(config, ConfigRecord) and records.ERROR in config:
        _check_names("record", content, {records.CONFIG})
        _check_names("config", config, {records.ERROR, "site"})
        if not SITE_NAME.fullmatch(str(config.get("site", "-"))):
            raise EgressError("config 'site' is not of its form")
        text = config[records.ERROR]
        if not (any_sentence or (isinstance(text, str) and SENTENCES.fullmatch(text))):
            raise EgressError("an error text of its own")
        return
    if kind not in METRICS:
        raise EgressError(f"a reply to {kind!r}, which this app does not answer")
    allowed = {records.METRICS}
    if kind == records.TRAIN:
        allowed.add(records.ADAPTER)
    if kind == records.DESCRIBE:
        allowed.add(records.CONFIG)
    _check_names("record", content, allowed)
    others = sum(name.startswith(OTHER_PREFIX) for name in message.content.array_records)
    allowed_metrics = METRICS[kind] | {f"dice-{number + 1}" for number in range(others)}
    _check_metrics(content.get(records.METRICS), allowed_metrics)
    if kind == records.DESCRIBE:
        _check_description(config)
    if kind == records.TRAIN:
        _check_tensors(content.get(records.ADAPTER), expected_tensors(message))


def expected_tensors(message: Message) -> Mapping[str, tuple[int, ...]]:
    """Return name and shape of every tensor that a training message asks for."""
    order = read_order(message)
    method = order.config.method
    if method.trains == "weights":
        return weight_shapes(skeleton(order.config.model.channels()))
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (c_out, fan_in) in layer_shapes(order.config).items():
        shapes = {"A": (order.rank, fan_in), "B": (c_out, order.rank)}
        for half in method.sent_up(order.server_round):
            expected[f"{layer}.lora_{half}"] = shapes[half]
    return expected


def _check_names(what: str, found: Mapping[str, object], allowed: set[str]) -> None:
    if extra := sorted(set(found) - allowed):
        raise EgressError(f"{what} {extra[0]!r} is not on the list")


def _check_metrics(metrics: object, allowed: set[str]) -> None:
    if not isinstance(metrics, MetricRecord):
        raise EgressError("no metrics")
    _check_names("metric", metrics, allowed)
    for name, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise EgressError(f"metric {name!r} is not one number")


def _check_description(config: object) -> None:
    if not isinstance(config, ConfigRecord):
        raise EgressError("no description")
    patterns = {"site": SITE_NAME, "base-sha256": SHA256}
    _check_names("config", config, set(patterns))
    for name, value in config.items():
        if not (isinstance(value, str) and patterns[name].fullmatch(value)):
            raise EgressError(f"config {name!r} is not of its form")


def _check_tensors(arrays: object, expected: Mapping[str, tuple[int, ...]]) -> None:
    if not expected and arrays is None:
        return
    if not isinstance(arrays, ArrayRecord):
        raise EgressError("no adapter")
    try:
        tensors = records.record_to_tensors(arrays)
    except ValueError as error:
        raise EgressError(str(error)) from None
    _check_names("tensor", tensors, set(expected))
    for name, shape in expected.items():
        if name not in tensors:
            raise EgressError(f"tensor {name!r} is missing")
        found = (records.type_name(tensors[name]), tuple(tensors[name].shape))
        if found != ("float32", shape):
            raise EgressError(f"tensor {name!r} is {found}, expected float32 {shape}")
    if arrays.object_id != records.tensors_to_record(tensors).object_id:  # notes, or a gap
        raise EgressError("the adapter's bytes hold more than its tensors")


def _request(message: Message, context: Context) -> Request:
    order = message.content.config_records.get(records.CONFIG, ConfigRecord())
    server_round = order.get("server-round", 0)
    return Request(
        context.run_id,
        server_round if isinstance(server_round, int) else 0,
        message.metadata.message_type,
    )
