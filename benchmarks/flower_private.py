"""Private names of Flower's that only benchmarks and tests use, and what each is for.

:mod:`common.flower_private` has those that the installed packages use.
"""

from pathlib import Path

# The command line of `flwr`, and its file of connections
from flwr.cli.app import app as flwr
from flwr.cli.flower_config import parse_superlink_connection

# What a SuperNode talks to a SuperLink with
from flwr.client.grpc_rere_client.connection import grpc_request_response

# Write and read an array record as protocol buffers
from flwr.common.serde import array_record_from_proto, array_record_to_proto

# Requests of the `flwr` command to a SuperLink, and the protocol buffers of an array record
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.recorddict_pb2 import ArrayRecord as ArrayRecordProto

# A SuperLink's database of keys and runs, with the two parts below that it needs
from flwr.server.superlink.linkstate import LinkStateFactory

# Talks to a SuperLink as `flwr` does
from flwr.supercore.control.control_http_client import ControlHttpClient

# The objects in a message, as they are announced and sent
from flwr.supercore.inflatable.inflatable_object import (
    add_header_to_object_body,
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

__all__ = [
    "ArrayRecordProto",
    "ControlHttpClient",
    "ListRunsRequest",
    "RegisterNodeRequest",
    "UnregisterNodeRequest",
    "add_header_to_object_body",
    "array_record_from_proto",
    "array_record_to_proto",
    "flwr",
    "get_object_id",
    "get_object_tree",
    "grpc_request_response",
    "inflate_object_from_contents",
    "link_state",
    "make_simple_grpc_retry_invoker",
    "no_object_id_recompute",
    "parse_superlink_connection",
    "public_key_to_bytes",
    "superlink_parser",
]


def link_state(database: Path) -> LinkStateFactory:
    """Return a factory that opens and migrates a SuperLink's database as a SuperLink does."""
    store = ObjectStoreFactory(str(database))
    return LinkStateFactory(str(database), NoOpFederationManager(), store)
