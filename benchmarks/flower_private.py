"""Names outside Flower's public interface that only benchmarks and tests use, and what for.

They are not in :mod:`common.flower_private` because what is installed needs none of them.
"""

from pathlib import Path

# The coordinator's command lines: `flwr`, its file of connections, flower-superlink's options
from flwr.cli.app import app as flwr
from flwr.cli.flower_config import parse_superlink_connection

# An array record as protocol buffers and as objects, the two ways in which it is sent
from flwr.common.serde import array_record_from_proto, array_record_to_proto

# What `flwr` asks of a SuperLink
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.recorddict_pb2 import ArrayRecord as ArrayRecordProto

# A SuperLink's database: registered keys, runs, and what sites sent
from flwr.server.superlink.linkstate import LinkStateFactory

# Talks to a SuperLink as `flwr` does
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory

# A public key as the SuperLink stores it
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.cli.flower_superlink import _parse_args_run_superlink as superlink_parser
from flwr.superlink.federation import NoOpFederationManager

__all__ = [
    "ArrayRecordProto",
    "ControlHttpClient",
    "ListRunsRequest",
    "RegisterNodeRequest",
    "UnregisterNodeRequest",
    "array_record_from_proto",
    "array_record_to_proto",
    "flwr",
    "inflate_object_from_contents",
    "link_state",
    "parse_superlink_connection",
    "public_key_to_bytes",
    "superlink_parser",
]


def link_state(database: Path) -> LinkStateFactory:
    """Return what opens a SuperLink's database, and brings it up to date, as a SuperLink does."""
    store = ObjectStoreFactory(str(database))
    return LinkStateFactory(str(database), NoOpFederationManager(), store)
