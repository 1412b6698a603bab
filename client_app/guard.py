"""The guard of a site: judges every message that comes, checks every reply that leaves, logs both.

:func:`guard` takes a message through its steps in their order. What a reply may hold follows from
the request alone: the tensors of an adapter, or of all weights, that the request asks for, the
numbers that :mod:`common.messages` lists, or one of its few fixed sentences when something went
wrong. In place of any other reply the server gets the sentence that the guard refused it. Every
message is in the site's audit log before it goes on.
"""

from collections.abc import Callable, Mapping
from logging import ERROR

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.common import log

from cardiac.splits import TooFewPatientsError
from client_app import envelope, limits
from client_app.approval import NotApprovedError
from client_app.assembly import NotHeldError, layer_shapes
from client_app.audit import IN, OUT, PASSED, AuditLog, RequestId
from client_app.ledger import Ledger, open_ledger
from client_app.settings import LimitError, SiteSettings
from common import messages, records
from common.errors import UserError
from common.files import keep_private
from common.messages import (
    CANNOT,
    REFUSED,
    TOO_FEW,
    UNEXPECTED,
    Description,
    Failure,
    ReplyError,
    Request,
    Update,
    Validation,
)
from common.model import skeleton, weight_shapes
from common.text import clean
from common.weights import Weights

LONGEST_ERROR = 1000
"""Most characters of an error in the site's log."""
Serve = Callable[[SiteSettings, Request], RecordDict]
"""Does what a request asks for, within the site's settings; returns the content of the reply."""


def guard(message: Message, context: Context, serve: Serve, refusal: str = "") -> Message:
    """Judge a message, let the app serve it, check the reply and return it; log both.

    Whatever is raised on the way is logged and answered with a fixed sentence; in a simulation,
    where the server and the site have the same user, with the text of the error.

    Parameters
    ----------
    message
        A message of any type and content.
    context
        Flower's context, whose node configuration holds the site's settings.
    serve
        The app.
    refusal
        The sentence that answers the message unread, as it is of another version; empty to read it.
    """
    simulated = "partition-id" in context.node_config
    try:
        settings = SiteSettings.from_node(context.node_config)
        audit = None if settings.simulated else AuditLog(settings.audit_path())
        name = _request_id(message, context)
        fault = "" if refusal else _fault(message, settings)  # 1
        came = ""
        if audit is not None:  # 2
            keep_private()
            came = audit.write(name, IN, f"refused: {fault}" if fault else PASSED, message)
        request: Request | None = None
        ledger: Ledger | None = None
        try:
            if refusal:
                content = Failure(refusal, settings.name).to_record()
            elif fault:
                raise UserError(f"{messages.SERVER}: {fault}")
            else:
                request = messages.read_request(message)  # 3
                content, ledger = _served(settings, request, serve)
        except Exception as error:
            content = _failure(error, simulated=simulated)
        verdict = PASSED
        try:
            check_reply(request, content, any_sentence=simulated)  # 8
            if request is not None and ledger is not None:
                ledger.keep(request, content)  # 9
        except ReplyError as error:
            verdict = f"refused: {error}"
            log(ERROR, "egress guard: %s reply refused: %s", name.kind, error)
        except Exception as error:
            content = _failure(error, simulated=simulated)
        if verdict == PASSED:
            messages.seal(content, came)
        if audit is not None:
            audit.write(name, OUT, verdict, Message(content, reply_to=message))
        if verdict != PASSED:
            content = Failure(REFUSED).to_record()
            messages.seal(content, came)
    except Exception as error:  # the site's settings are wrong, or its log cannot be written
        content = _failure(error, simulated=simulated)
    return Message(content, reply_to=message)


def _fault(message: Message, settings: SiteSettings) -> str:
    """Return why a message cannot be read; empty where it can."""
    try:
        return envelope.fault(message, settings)
    except UserError as error:  # the site's own base file
        return str(error)


def _served(
    settings: SiteSettings, request: Request, serve: Serve
) -> tuple[RecordDict, Ledger | None]:
    """Return the reply's content for steps 4 to 7, and the run's ledger where there is one."""
    limits.check(settings, request)  # 4
    if settings.simulated:
        return serve(settings, request), None
    ledger = open_ledger(settings, request)  # 5
    return ledger.answered(request) or serve(settings, request), ledger  # 6, 7


def _failure(error: Exception, *, simulated: bool) -> RecordDict:
    """Log an error and return the reply that says as much of it as may leave."""
    if isinstance(error, UserError):
        log(ERROR, "%s", clean(error, LONGEST_ERROR))
        may_leave = simulated or isinstance(error, LimitError | NotHeldError)
        site = error.site if isinstance(error, NotApprovedError) else ""
        fixed = TOO_FEW if isinstance(error, TooFewPatientsError) else CANNOT
        return Failure(str(error) if may_leave else fixed, site).to_record()
    log(ERROR, "unexpected error", exc_info=error)
    reason = f"{UNEXPECTED} ({type(error).__name__})" if simulated else UNEXPECTED
    return Failure(reason).to_record()


def check_reply(
    request: Request | None, content: RecordDict, *, any_sentence: bool = False
) -> None:
    """Check that a reply holds what a request asks for and nothing else.

    A message that is no request (None) may only be answered with a sentence. With ``any_sentence``
    an error text may name files, as in a simulation.

    Raises
    ------
    ReplyError
        The reply holds something else, or lacks something.
    """
    content, _ = messages.unsealed(content)  # of a stored reply
    if (failure := Failure.found_in(content)) is not None:
        if content != failure.to_record():
            raise ReplyError("an error text and something beside it")
        if not any_sentence:
            failure.check()
        return
    found: messages.Reply
    match request:
        case messages.Describe():
            found = Description.from_record(content)
        case messages.Train():
            expected = expected_tensors(request)
            found = Update.from_record(content, lambda arrays: _read_exactly(arrays, expected))
        case messages.Validate():
            found = Validation.from_record(content, len(request.others))
        case messages.Test():
            found = messages.TestScores.from_record(content)
        case _:
            raise ReplyError("an answer to what is no request")
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
    kind = clean(message.metadata.message_type, envelope.LONGEST_KEY)
    content = RecordDict() if message.has_error() else message.content
    config = content.config_records.get(messages.CONFIG, ConfigRecord())
    found = config.get("server-round")
    return RequestId(context.run_id, found if isinstance(found, int) else 0, kind)
