"""The egress guard: checks every reply before it leaves the site, and logs every message.

It wraps the whole ClientApp as a Flower mod. What a reply may hold follows from the request alone:
the tensors of an adapter, or of all weights, that the request asks for, the numbers that
:mod:`common.messages` lists, or one of its few fixed sentences when something went wrong. In place
of any other reply the server gets the sentence that the guard refused it. Every message is in the
site's audit log before it goes on.
"""

from collections.abc import Callable, Mapping
from logging import ERROR

from flwr.app import ArrayRecord, ConfigRecord, Context, Message
from flwr.common import log

from client_app.assembly import layer_shapes
from client_app.audit import IN, OUT, PASSED, AuditLog, RequestId
from client_app.settings import SiteSettings
from common import messages, records
from common.errors import UserError
from common.messages import (
    CANNOT,
    REFUSED,
    UNEXPECTED,
    Description,
    Failure,
    ReplyError,
    Request,
    Update,
    Validation,
)
from common.model import skeleton, weight_shapes
from common.weights import Weights

App = Callable[[Message, Context], Message]


def guard(message: Message, context: Context, call_next: App) -> Message:
    """Pass a request to the app and its checked reply on, and log both; a Flower client mod."""
    try:
        settings = SiteSettings.from_node(context.node_config)
        request = _request_id(message, context)
        audit = None if settings.simulated else AuditLog(settings.audit_path())
        if audit is not None:
            audit.write(request, IN, PASSED, message)
        reply = call_next(message, context)
        try:
            check_reply(message, reply, any_sentence=settings.simulated)
            verdict = PASSED
        except ReplyError as error:
            verdict = f"refused: {error}"
            log(ERROR, "egress guard: %s reply refused: %s", request.kind, error)
        if audit is not None:
            audit.write(request, OUT, verdict, reply)
        if verdict == PASSED:
            return reply
        return Message(Failure(REFUSED).to_record(), reply_to=message)
    except UserError as error:  # the site's settings are wrong, or its log cannot be written
        log(ERROR, "%s", error)
        reason = str(error) if "partition-id" in context.node_config else CANNOT
        return Message(Failure(reason).to_record(), reply_to=message)
    except Exception as error:
        log(ERROR, "unexpected error", exc_info=error)
        return Message(Failure(UNEXPECTED).to_record(), reply_to=message)


def check_reply(message: Message, reply: Message, *, any_sentence: bool = False) -> None:
    """Check that a reply holds what the request ``message`` asks for and nothing else.

    With ``any_sentence`` an error text may name files, as in a simulation.

    Raises
    ------
    ReplyError
        The reply holds something else, or lacks something.
    """
    if reply.has_error():
        raise ReplyError("an error text of Flower's own")
    content = reply.content
    if (failure := Failure.found_in(content)) is not None:
        if content != failure.to_record():
            raise ReplyError("an error text and something beside it")
        if not any_sentence:
            failure.check()
        return
    found: messages.Reply
    match messages.read_request(message):
        case messages.Describe():
            found = Description.from_record(content)
        case messages.Train() as request:
            expected = expected_tensors(request)
            found = Update.from_record(content, lambda arrays: _read_exactly(arrays, expected))
        case messages.Validate() as request:
            found = Validation.from_record(content, len(request.others))
        case messages.Test():
            found = messages.TestScores.from_record(content)
    found.check_decimals()


def expected_tensors(request: Request) -> Mapping[str, tuple[int, ...]]:
    """Return name and shape of every tensor that the reply to a training request must hold."""
    method = request.config.method
    if method.trains == "weights":
        return weight_shapes(skeleton(request.config.model.channels()))
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (c_out, fan_in) in layer_shapes(request.config).items():
        shapes = {"A": (request.site_rank, fan_in), "B": (c_out, request.site_rank)}
        for half in method.sent_up(request.server_round):
            expected[f"{layer}.lora_{half}"] = shapes[half]
    return expected


def _read_exactly(arrays: ArrayRecord | None, expected: Mapping[str, tuple[int, ...]]) -> Weights:
    """Return a reply's tensors, or raise ``ReplyError`` unless it holds just the expected ones."""
    if not expected and arrays is None:
        return Weights()
    if arrays is None:
        raise ReplyError("no adapter")
    tensors = records.record_to_tensors(arrays)
    messages.check_names("tensor", tensors, expected)
    for name, shape in expected.items():
        if name not in tensors:
            raise ReplyError(f"tensor {name!r} is missing")
        found = (records.type_name(tensors[name]), tuple(tensors[name].shape))
        if found != ("float32", shape):
            raise ReplyError(f"tensor {name!r} is {found}, expected float32 {shape}")
    if arrays.object_id != records.tensors_to_record(tensors).object_id:  # notes, or a gap
        raise ReplyError("the adapter's bytes hold more than its tensors")
    return Weights(tensors)


def _request_id(message: Message, context: Context) -> RequestId:
    found = message.content.config_records.get(messages.CONFIG, ConfigRecord()).get("server-round")
    server_round = found if isinstance(found, int) else 0
    return RequestId(context.run_id, server_round, message.metadata.message_type)
