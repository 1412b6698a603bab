"""All private names of Flower's that the installed packages use, and what each is for.

Public are ``flwr.app``, ``flwr.clientapp``, ``flwr.serverapp`` and what ``flwr.common`` lists. Any
release may change the others; docs/flower.md says what they were before. Names that take long to
import, and that one command alone uses, are imported inside the function that uses them.
"""

import secrets
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from flwr.app import Context, Message, RecordDict
from flwr.common import log

# Read "key=value" pairs, and the app's own configuration, as Flower's commands do
from flwr.common.config import get_fused_config_from_dir, get_project_config, parse_config_args

# The sender of an answer that the SuperLink gives for a site that is gone; how a task ended
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus

# Read a reply from the SuperLink object by object, and tell it that the objects can go
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.node_pb2 import Node

# Ask a SuperNode for the next message; tell it that the app works on one; ask for replies
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    SendTaskHeartbeatRequest,
)

# Says whether an address is taken
from flwr.supercore.address import is_port_in_use

# The federation of a simulation; the kind of task that a site takes
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType

# Calls a function every half minute in a thread of its own
from flwr.supercore.heartbeat import HeartbeatSender

# The objects that a message is sent as, whose bytes cross the network; their ids and first lines
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_head_values_from_object_content,
    iterate_object_tree,
)

# Puts a message together from its objects
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPushError,
    inflate_object_from_contents,
)

# Add Flower's version, the token of a task, or a signature to a request
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)

# What Flower knows about a run; the exception in the ServerApp of a run that somebody stopped
from flwr.supercore.run import Run, RunNotRunningException

# Sends requests to a SuperNode over HTTP
from flwr.supercore.runtime import RuntimeHttpClient

# The task, run and node that this process works for; messages can be made only when it is set
from flwr.supercore.task_identity import TaskIdentity

from common.files import parse_json
from common.text import clean

if TYPE_CHECKING:
    from flwr.serverapp import Grid

__all__ = [
    "SUPERLINK_NODE_ID",
    "EngineError",
    "HeartbeatSender",
    "Lock",
    "ObjectPushError",
    "Run",
    "RunNotRunningException",
    "RuntimeHttpClient",
    "TaskIdentity",
    "TooLargeError",
    "acquire_task",
    "announced",
    "discard",
    "get_all_nested_objects",
    "is_port_in_use",
    "is_waited_for",
    "parse_config_args",
    "pull_object",
    "pull_task",
    "push_answer",
    "put_together",
    "run_simulation",
    "runtime_client",
    "superlink_of",
    "unpacked_bytes",
]


FRAME = 2**12
"""Bytes that an answer of the SuperLink may have beside the object that it brings."""


class TooLargeError(Exception):
    """An answer of the SuperLink is larger than the caller takes; it was not read."""


MOST_OBJECTS = 1000
MOST_BYTES = 2**32
"""Most objects and bytes of a message that are read; a request of any run has far fewer."""
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
"""The one request of the Runtime API that needs the secret instead of a task's token."""


@dataclass(frozen=True)
class Lock:
    """What only a SuperNode and its app know of the port between them."""

    certificate: bytes
    """Certificate of the authority of the SuperNode's certificate, in PEM."""
    secret: bytes
    """Signs the app's requests for work."""


class EngineError(Exception):
    """A simulation's engine failed; the text says why."""


def runtime_client(address: str, token: str = "", lock: Lock | None = None) -> RuntimeHttpClient:
    """Return a client of the Runtime API of a SuperNode on this machine.

    Parameters
    ----------
    address
        ``host:port``.
    token
        That of the task that the requests are about, or empty.
    lock
        How the SuperNode and its app know each other; None for a port without TLS.
    """
    interceptors: list[Any] = [RuntimeVersionHttpInterceptor("rate-my-lora")]
    if token:
        interceptors.append(RuntimeTokenHttpInterceptor(token))
    if lock is not None:
        interceptors.append(
            SuperExecAuthHttpInterceptor(master_secret=lock.secret, protected_methods=[ACQUIRE])
        )
    return RuntimeHttpClient.from_server_address(
        address,
        insecure=lock is None,
        root_certificates=None if lock is None else lock.certificate,
        interceptors=interceptors,
    )


def acquire_task(client: RuntimeHttpClient) -> str:
    """Return the token of the next message's task; empty if there is none."""
    request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    return str(client.AcquireTask(request).token)


def is_waited_for(client: RuntimeHttpClient) -> bool:
    """Tell the SuperNode that the app works on a task; return False if it has given the task up."""
    return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)


def pull_task(client: RuntimeHttpClient) -> tuple[Message, Context, Run]:
    """Return the message, the context and the run of a task; the code that came is dropped.

    Content that is no message, or too large for one, is logged and left out.
    """
    # Read what came with a task
    from flwr.common.serde import (  # noqa: PLC0415
        context_from_proto,
        message_from_proto,
        run_from_proto,
    )

    # Says that a message came
    from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest  # noqa: PLC0415

    # Says which node asks
    from flwr.proto.node_pb2 import Node  # noqa: PLC0415

    # Ask for a task's run, and for its message
    from flwr.proto.runtime_pb2 import (  # noqa: PLC0415
        PullAppMessagesRequest,
        PullTaskInputRequest,
    )

    # Names the objects of a message
    from flwr.supercore.inflatable.inflatable_object import (  # noqa: PLC0415
        iterate_object_tree,
    )

    # Asks for an object
    from flwr.supercore.inflatable.inflatable_protobuf_utils import (  # noqa: PLC0415
        make_pull_object_fn_protobuf,
    )

    # Ask for objects until the SuperNode has them, and make a message of them
    from flwr.supercore.inflatable.inflatable_utils import (  # noqa: PLC0415
        inflate_object_from_contents,
        pull_objects,
    )

    task = client.PullTaskInput(PullTaskInputRequest())
    context, run = context_from_proto(task.context), run_from_proto(task.run)
    TaskIdentity.task_id, TaskIdentity.run_id = task.task_id, run.run_id
    TaskIdentity.node_id = context.node_id
    pulled = client.PullMessages(PullAppMessagesRequest())
    message, tree = message_from_proto(pulled.messages_list[0]), pulled.message_object_trees[0]
    message.metadata.__dict__["_message_id"] = tree.object_id
    node, left = Node(node_id=context.node_id), MOST_BYTES
    pull = make_pull_object_fn_protobuf(client.PullObject, node, context.run_id)

    def bounded(object_id: str) -> bytes:
        nonlocal left
        content = pull(object_id)
        left -= len(content)
        if left < 0:
            raise ValueError(f"more than {MOST_BYTES} bytes")
        return content

    try:
        ids = [found.object_id for found in iterate_object_tree(tree)]
        if len(ids) > MOST_OBJECTS:
            raise ValueError(f"{len(ids)} objects, expected at most {MOST_OBJECTS}")
        inflated = inflate_object_from_contents(tree.object_id, pull_objects(ids, bounded))
        if not isinstance(inflated, Message):
            raise TypeError(f"found a {type(inflated).__name__}")
        message.content = inflated.content
    except httpx.HTTPError:  # of the SuperNode
        raise
    except Exception as error:  # hostile bytes raise anything
        log(ERROR, "a message cannot be read: %s", clean(error))
        if not message.has_error():
            message.content = RecordDict()
    client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(
            node=node, run_id=context.run_id, message_object_id=tree.object_id
        )
    )
    return message, context, run


def push_answer(client: RuntimeHttpClient, answer: Message, context: Context) -> None:
    """Hand the answer to the SuperNode and end the task."""
    from flwr.supernode.runtime.run_clientapp import (  # noqa: PLC0415
        push_message,
        push_task_output,
    )

    push_message(client, answer, context)
    push_task_output(client, context, SubStatus.COMPLETED, "")


def superlink_of(grid: "Grid") -> RuntimeHttpClient | None:
    """Return a deployed run's connection to its SuperLink; None for other grids."""
    # The grid of a deployed run's ServerApp
    from flwr.superlink.grid import HttpGrid  # noqa: PLC0415

    return grid._runtime_client if isinstance(grid, HttpGrid) else None


def announced(client: RuntimeHttpClient, asked: str, most: int) -> tuple[str, list[str]] | None:
    """Return the id of the reply to a message and the ids of its objects; None where there is none.

    Raises TooLargeError where the list alone has more than ``most`` bytes.
    """
    request = PullAppMessagesRequest(message_ids=[asked])
    found = _bounded(client, lambda: client.PullMessages(request), most)
    for message, tree in zip(found.messages_list, found.message_object_trees, strict=True):
        if message.metadata.reply_to_message_id == asked:
            objects = dict.fromkeys(one.object_id for one in iterate_object_tree(tree))
            return message.metadata.message_id, list(objects)
    return None


def pull_object(client: RuntimeHttpClient, run_id: int, object_id: str, most: int) -> bytes:
    """Return an object of a reply; empty while it has not come.

    Raises LookupError where it will not come any more, and TooLargeError where it has more than
    ``most`` bytes, before they are read.
    """
    node = Node(node_id=SUPERLINK_NODE_ID)
    request = PullObjectRequest(node=node, run_id=run_id, object_id=object_id)
    found = _bounded(client, lambda: client.PullObject(request), most)
    if not found.object_found:
        raise LookupError(object_id)
    if len(found.object_content) > most:
        raise TooLargeError
    return bytes(found.object_content) if found.object_available else b""


def discard(client: RuntimeHttpClient, run_id: int, reply: str) -> None:
    """Tell the SuperLink that the objects of a reply are not needed any more."""
    node = Node(node_id=SUPERLINK_NODE_ID)
    client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=reply)
    )


def unpacked_bytes(objects: Mapping[str, bytes]) -> int:
    """Return the bytes of a message's arrays once put together.

    An array lists its chunks by number and may name one more than once, so a small message can
    become a large one. Raises whatever reading a malformed object raises.
    """
    total = 0
    for content in objects.values():
        kind, chunks, length = get_object_head_values_from_object_content(content)
        if kind == "Array":
            sizes = [len(objects[chunk]) for chunk in chunks]
            body = parse_json(content[len(content) - length :])
            total += sum(sizes[index] for index in body["arraychunk_ids"])
    return total


def put_together(reply: str, objects: dict[str, bytes]) -> Message:
    """Return the message made of these objects; raises whatever a malformed object raises."""
    message = inflate_object_from_contents(reply, objects)
    if not isinstance(message, Message):
        raise TypeError("not a message")
    return message


def _bounded(client: RuntimeHttpClient, call: Callable[[], Any], most: int) -> Any:
    """Return what a call of the client's returns; stop before a body beyond ``most`` is read."""

    def look(response: httpx.Response) -> None:
        if int(response.headers.get("content-length", 0)) > most + FRAME:
            raise TooLargeError

    http: Any = getattr(client, "_client", None)
    hooks = http.event_hooks if http is not None else {}
    if http is not None:
        http.event_hooks = {**hooks, "response": [*hooks["response"], look]}
    try:
        return call()
    finally:
        if http is not None:
            http.event_hooks = hooks


def run_simulation(
    app: Path,
    nodes: int,
    typed: Mapping[str, Any],
    backend: str,
    backend_config: dict[str, Any],
    *,
    tf_gpu_growth: bool,
    verbose: bool,
    run_id: int | None,
    check: Callable[[], None],
) -> None:
    """Run an app on simulated nodes, as Flower's ``flwr-simulation`` does.

    Parameters
    ----------
    app
        Folder with the app's ``pyproject.toml``.
    nodes
        Number of simulated nodes.
    typed
        Keys of the run configuration that replace those of the app's file.
    backend, backend_config, tf_gpu_growth, verbose
        Passed to Flower's engine.
    run_id
        Number of the run; None for a random one.
    check
        The ServerApp's thread calls it repeatedly while it waits; an exception ends the run.

    Raises
    ------
    EngineError
        The engine could not start, or failed later.
    """
    # The engine behind Flower's command of old and its ``flwr-simulation`` of today
    from flwr.simulation.run_simulation import _run_simulation  # noqa: PLC0415

    # Names the event that ends the run, which Flower reports if telemetry is on
    from flwr.supercore.telemetry import EventType  # noqa: PLC0415

    # Sends the messages of a simulation's ServerApp
    from flwr.superlink.grid import InMemoryGrid  # noqa: PLC0415

    class CheckedGrid(InMemoryGrid):
        def get_node_ids(self) -> Iterable[int]:
            check()
            return super().get_node_ids()

        def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
            check()
            return super().pull_messages(message_ids)

    engine: Any = sys.modules[_run_simulation.__module__]
    engine.InMemoryGrid = CheckedGrid
    components = get_project_config(app)["tool"]["flwr"]["app"]["components"]
    run = Run.create_empty(secrets.randbits(63) if run_id is None else run_id)
    run.primary_task_id = secrets.randbits(63)
    run.federation_id = NOOP_FEDERATION_ID
    run.override_config = dict(typed)
    TaskIdentity.task_id = run.primary_task_id
    TaskIdentity.run_id = run.run_id
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    fused = get_fused_config_from_dir(app, run.override_config)
    try:
        _run_simulation(
            num_supernodes=nodes,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            backend_name=backend,
            backend_config=backend_config,
            client_app_attr=components["clientapp"],
            server_app_attr=components["serverapp"],
            server_app_context=Context(run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), fused),
            app_dir=str(app),
            run=run,
            enable_tf_gpu_growth=tf_gpu_growth,
            verbose_logging=verbose,
            is_app=True,
        )
    except RuntimeError as error:
        if not isinstance(error.__cause__, RuntimeError):  # the ServerApp raised it
            raise
        cause = error.__cause__.__cause__ or error.__cause__
        raise EngineError(str(cause).strip() or type(cause).__name__) from error
