"""A SuperLink's own state and handlers in this process, without the transport."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from flwr.app import Message, RecordDict

from benchmarks.flower_private import (
    NOOP_FEDERATION_ID,
    NOOP_FLWR_AID,
    HttpGrid,
    Node,
    ObjectTree,
    PullMessagesRequest,
    PushMessagesRequest,
    PushObjectRequest,
    TaskType,
    get_all_nested_objects,
    get_object_tree,
    message_from_proto,
    message_handler,
    message_to_proto,
    remove_content_from_message,
    runtime_handlers,
)
from common.flower_private import TaskIdentity

HEARTBEAT_S = 3600
CALLS = {
    "GetNodes": runtime_handlers.get_nodes,
    "PushMessages": runtime_handlers.push_messages,
    "PullMessages": runtime_handlers.pull_messages,
    "PushObject": runtime_handlers.push_object,
    "PullObject": runtime_handlers.pull_object,
    "ConfirmMessageReceived": runtime_handlers.confirm_message_received,
}


class SuperLink:
    """A SuperLink with one run; ``grid`` is the grid of the run's ServerApp."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.run_id = self.state.create_run(
            *("x/y", "0.1.0", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID),
            TaskType.SERVER_APP,
        )
        (run,) = self.state.get_run_info(run_ids=[self.run_id])
        self.state.claim_task(int(run.primary_task_id or 0))
        self.state.activate_task(int(run.primary_task_id or 0))
        TaskIdentity.run_id = self.run_id
        task = SimpleNamespace(run_id=self.run_id, task_id=run.primary_task_id)
        self.grid = HttpGrid(token="none")  # noqa: S106
        self.grid.set_run(run)
        self.calls = {name: self._call(handler, task) for name, handler in CALLS.items()}
        self.grid._client = SimpleNamespace(**self.calls)  # type: ignore[assignment]

    def _call(self, handler: Any, task: Any) -> Callable[[Any], Any]:
        return lambda request: handler(request, self.state, task)

    def connect(self, name: str) -> "Supernode":
        """Return a site that is connected."""
        node = self.state.create_node(NOOP_FLWR_AID, "noop", name.encode(), HEARTBEAT_S)
        self.state.activate_node(node, HEARTBEAT_S)
        return Supernode(self, node)


class Supernode:
    """A connected site that takes requests and answers them, or not."""

    def __init__(self, superlink: SuperLink, node_id: int) -> None:
        self.superlink, self.node_id = superlink, node_id
        self.node = Node(node_id=node_id)

    def take(self) -> Message | None:
        """Return the next request."""
        state = self.superlink.state
        request = PullMessagesRequest(node=self.node)
        found = message_handler.pull_messages(request, state, state.object_store)
        return message_from_proto(found.messages_list[0]) if found.messages_list else None

    def announce(self, reply: Message, tree: ObjectTree | None = None) -> Any:
        """Announce a reply; return the session in which to send its objects, and their ids."""
        request = PushMessagesRequest(
            node=self.node,
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree or get_object_tree(reply)],
        )
        return message_handler.push_messages(request, self.superlink.state)

    def send(self, session: Any, objects: dict[str, bytes]) -> None:
        """Send those objects of a reply that the SuperLink does not have."""
        for object_id in set(objects) & set(session.objects_to_push):
            request = PushObjectRequest(
                node=self.node,
                run_id=self.superlink.run_id,
                object_id=object_id,
                object_content=objects[object_id],
                session_id=session.session_id,
            )
            assert message_handler.push_object(request, self.superlink.state).stored

    def answer(self, request: Message, content: RecordDict) -> None:
        """Answer a request as a sound site does."""
        reply, objects = made(request, content)
        self.send(self.announce(reply), objects)


def made(request: Message, content: RecordDict) -> tuple[Message, dict[str, bytes]]:
    """Return a reply with its id, and its objects by id."""
    reply = Message(content, reply_to=request)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply, {key: one.deflate() for key, one in get_all_nested_objects(reply).items()}
