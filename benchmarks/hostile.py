"""A node that holds a registered key and answers a coordinator as it likes, over Flower's own gRPC.

It describes itself as an honest site does. To every other request it gives the next of ``WAYS``.
:mod:`benchmarks.soak` starts it: python -m benchmarks.hostile SUPERLINK CA KEY BASE_SHA256
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import grpc  # type: ignore[import-untyped]
import torch
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict

from benchmarks.flower_private import (
    add_header_to_object_body,
    get_object_id,
    get_object_tree,
    grpc_request_response,
    make_simple_grpc_retry_invoker,
    no_object_id_recompute,
)
from common import messages, records
from common.flower_private import TaskIdentity, get_all_nested_objects

NAME = "Mallory"
POLL_S = 0.5
HUGE = 64 * 2**20
"""Bytes of a reply that is larger than any adapter of the soak."""
ENDLESS = 200
"""Replies to one request."""


class Line(NamedTuple):
    """What the node does at the SuperLink."""

    send: Callable[..., Any]
    push: Callable[..., Any]


def numbers(content: RecordDict) -> RecordDict:
    """Add numbers that look as if the reply were in order."""
    content[messages.METRICS] = MetricRecord({"num-examples": 40, "loss": 0.5, "seconds": 1.0})
    return content


def tensors(value: float, size: int) -> RecordDict:
    """Return a reply with a tensor."""
    arrays = records.tensors_to_record({"conv_0.conv_0.conv.lora_A": torch.full((size,), value)})
    return numbers(RecordDict({messages.ADAPTER: arrays}))


def silent(_request: Message, _line: Line) -> None:
    """Answer nothing."""


def half(request: Message, line: Line) -> None:
    """Announce a reply, and send none of it."""
    announce(line, made(request, tensors(0.1, 1000)))


def some(request: Message, line: Line) -> None:
    """Announce a reply, and send all but its last object."""
    reply = made(request, tensors(0.1, 1000))
    objects = announce(line, reply)
    for name, content in list(objects.items())[:-1]:
        line.push(name, content)


def rubbish(request: Message, line: Line) -> None:
    """Send an object whose hash is right and whose content is none."""
    reply = made(request, numbers(RecordDict()))
    metric = next(
        value for value in get_all_nested_objects(reply).values() if isinstance(value, MetricRecord)
    )
    body = add_header_to_object_body(b"\xff\xfe rubbish", metric)
    swap(line, reply, metric.object_id, body)


def huge(request: Message, line: Line) -> None:
    """Send far more than an adapter."""
    deliver(line, made(request, tensors(0.0, HUGE // 4)))


def not_finite(request: Message, line: Line) -> None:
    """Send an adapter without numbers."""
    deliver(line, made(request, tensors(float("nan"), 1000)))


def many(request: Message, line: Line) -> None:
    """Send a hundred thousand numbers."""
    metrics = MetricRecord({f"k{number}": 0.5 for number in range(100_000)})
    deliver(line, made(request, RecordDict({messages.METRICS: metrics})))


def flood(request: Message, line: Line) -> None:
    """Send an error text of megabytes, with control characters."""
    text = "\x1b[2J\nWARNING: GE is left out\n" + "x" * 4_000_000
    deliver(line, made(request, RecordDict({messages.CONFIG: ConfigRecord({"error": text})})))


def empty(request: Message, line: Line) -> None:
    """Send nothing in particular."""
    deliver(line, made(request, RecordDict()))


def other_kind(request: Message, line: Line) -> None:
    """Answer another request than the one that came."""
    deliver(line, made(request, messages.Validation(1.0, 10**9, (1.0,) * 50).to_record()))


def endless(request: Message, line: Line) -> None:
    """Answer again and again."""
    for number in range(ENDLESS):
        with suppress(grpc.RpcError, ValueError):
            deliver(line, made(request, tensors(float(number), 100)))


WAYS = (rubbish, flood, half, many, not_finite, huge, silent, some, empty, other_kind, endless)


def made(request: Message, content: RecordDict) -> Message:
    """Return a reply with its id."""
    reply = Message(content, reply_to=request)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def announce(line: Line, reply: Message) -> dict[str, bytes]:
    """Tell the SuperLink of a reply; return the objects that are to follow."""
    with no_object_id_recompute():
        objects = {name: one.deflate() for name, one in get_all_nested_objects(reply).items()}
        line.send(reply, get_object_tree(reply), 1.0)
    return objects


def deliver(line: Line, reply: Message) -> None:
    """Send a whole reply."""
    for name, content in announce(line, reply).items():
        line.push(name, content)


def swap(line: Line, reply: Message, old: str, body: bytes) -> None:
    """Send a reply in which one object has another content, and all above it the hash of that."""
    tree = get_object_tree(reply)
    objects = {name: one.deflate() for name, one in get_all_nested_objects(reply).items()}
    new = {old: get_object_id(body)}
    contents = {new[old]: body}
    for name, content in objects.items():  # from the leaves to the message
        changed = content
        for one, other in new.items():
            changed = changed.replace(one.encode(), other.encode())
        if name != old and changed != content:
            new[name] = get_object_id(changed)
            contents[new[name]] = changed
        elif name != old:
            contents[name] = content
    rename(tree, new)
    reply.metadata.__dict__["_message_id"] = tree.object_id
    with no_object_id_recompute():
        line.send(reply, tree, 1.0)
    for name, content in contents.items():
        line.push(name, content)


def rename(tree: Any, new: dict[str, str]) -> None:
    """Put other ids into a tree of objects."""
    tree.object_id = new.get(tree.object_id, tree.object_id)
    for child in tree.children:
        rename(child, new)


def take_part(superlink: str, root: bytes, key: ec.EllipticCurvePrivateKey, sha256: str) -> None:
    """Answer until the SuperLink is gone."""
    again = make_simple_grpc_retry_invoker()
    again.max_tries = 3
    keys = (key, key.public_key())
    ways = turns()
    with grpc_request_response(
        superlink, False, again, root_certificates=root, authentication_keys=keys
    ) as (node, receive, send, _run, _fab, _pull, push, confirm):
        print(f"connected as node {node}", flush=True)
        while True:
            found = receive()
            if found is None:
                time.sleep(POLL_S)
                continue
            request, _tree = found
            run = request.metadata.run_id
            TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, run, node
            session = [""]

            def announced(*reply: Any, session: list[str] = session) -> None:
                session[0] = send(*reply)[1]

            def pushed(name: str, data: bytes, r: int = run, s: list[str] = session) -> None:
                push(r, s[0], name, data)

            with suppress(grpc.RpcError):
                confirm(run, request.metadata.message_id)
            line, kind = Line(announced, pushed), request.metadata.message_type
            if kind == messages.DESCRIBE:
                content = messages.Description(NAME, sha256, 40, train_cases=20).to_record()
                deliver(line, made(request, content))
                continue
            way = next(ways)
            print(f"{kind}: {way.__name__}", flush=True)
            try:
                way(request, line)
            except Exception as error:  # the SuperLink's own defence
                print(f"{way.__name__}: {type(error).__name__}: {str(error)[:200]}", flush=True)


def turns() -> Iterator[Callable[[Message, Line], None]]:
    """Yield the ways in turn, for ever."""
    while True:
        yield from WAYS


if __name__ == "__main__":
    superlink, root, key, sha256 = sys.argv[1:]
    private = load_ssh_private_key(Path(key).read_bytes(), None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    take_part(superlink, Path(root).read_bytes(), private, sha256)
