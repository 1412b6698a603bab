"""Private names of Flower's that only benchmarks and tests use, and what each is for.

:mod:`common.flower_private` has those that the installed packages use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A message without its content, which is sent as objects
from flwr.app.message import remove_content_from_message

# The command line of `flwr`, and its file of connections
from flwr.cli.app import app as flwr
from flwr.cli.flower_config import parse_superlink_connection

# What a SuperNode talks to a SuperLink with
from flwr.client.grpc_rere_client.connection import grpc_request_response

# The owner of a node that nobody registered
from flwr.common.constant import NOOP_FLWR_AID

# Write and read an array record and a message as protocol buffers
from flwr.common.serde import (
    array_record_from_proto,
    array_record_to_proto,
    message_from_proto,
    message_to_proto,
)

# Requests of the `flwr` command to a SuperLink, and the protocol buffers of an array record
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, UnregisterNodeRequest

# What a SuperNode sends to take a request and to answer it
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.message_pb2 import ObjectTree, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import ArrayRecord as ArrayRecordProto

# How a SuperLink answers a SuperNode
from flwr.server.superlink.fleet.message_handler import message_handler

# A SuperLink's database of keys and runs, with the two parts below that it needs
from flwr.server.superlink.linkstate import LinkStateFactory

# The federation of a SuperLink in memory, and the kind of task that a run's server is
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, TaskType

# Talks to a SuperLink as `flwr` does
from flwr.supercore.control.control_http_client import ControlHttpClient

# The objects in a message, as they are announced and sent
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    no_object_id_recompute,
)

# Reads an array record that came as objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

# Where the database keeps arrays
from flwr.supercore.object_store import ObjectStoreFactory

# A public key as the SuperLink stores it
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

# Calls a SuperLink again that does not answer
from flwr.supercore.retry import make_simple_grpc_retry_invoker

# The options of flower-superlink
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_parser

# Who may take part: every registered site
from flwr.superlink.federation import NoOpFederationManager

# The grid of a deployed run's ServerApp, and how a SuperLink answers it
from flwr.superlink.grid import HttpGrid
from flwr.superlink.servicer.runtime import runtime_handlers

__all__ = [
    "NOOP_FEDERATION_ID",
    "NOOP_FLWR_AID",
    "ArrayRecordProto",
    "ControlHttpClient",
    "HttpGrid",
    "ListRunsRequest",
    "Node",
    "ObjectTree",
    "PullMessagesRequest",
    "PushMessagesRequest",
    "PushObjectRequest",
    "RegisterNodeRequest",
    "TaskType",
    "UnregisterNodeRequest",
    "add_header_to_object_body",
    "array_record_from_proto",
    "array_record_to_proto",
    "flwr",
    "get_all_nested_objects",
    "get_object_id",
    "get_object_tree",
    "grpc_request_response",
    "inflate_object_from_contents",
    "link_state",
    "make_simple_grpc_retry_invoker",
    "message_from_proto",
    "message_handler",
    "message_to_proto",
    "no_object_id_recompute",
    "parse_superlink_connection",
    "public_key_to_bytes",
    "remove_content_from_message",
    "runtime_handlers",
    "superlink_parser",
]


@contextmanager
def link_state(database: Path | str = FLWR_IN_MEMORY_DB_NAME) -> Iterator[LinkStateFactory]:
    """Yield a factory that opens and migrates a SuperLink's database as a SuperLink does.

    The default is a database in memory.
    """
    store = ObjectStoreFactory(str(database))
    factory = LinkStateFactory(str(database), NoOpFederationManager(), store)
    try:
        yield factory
    finally:  # Flower leaves its connections open; what is in memory has none
        for part in (factory.state_instance, store.store_instance):
            if (engine := getattr(part, "_engine", None)) is not None:
                engine.dispose()
