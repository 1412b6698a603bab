"""Private names of Flower's that only benchmarks and tests use, and what each is for.

:mod:`common.flower_private` has those that the installed packages use.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The command line of `flwr`, and its file of connections
from flwr.cli.app import app as flwr
from flwr.cli.flower_config import parse_superlink_connection

# Write and read an array record as protocol buffers
from flwr.common.serde import array_record_from_proto, array_record_to_proto

# Requests of the `flwr` command to a SuperLink, and the protocol buffers of an array record
from flwr.proto.control_pb2 import ListRunsRequest, RegisterNodeRequest, UnregisterNodeRequest
from flwr.proto.recorddict_pb2 import ArrayRecord as ArrayRecordProto

# A SuperLink's database of keys and runs, with the two parts below that it needs
from flwr.server.superlink.linkstate import LinkStateFactory

# Talks to a SuperLink as `flwr` does
from flwr.supercore.control.control_http_client import ControlHttpClient

# Reads an array record that came as objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

# Where the database keeps arrays
from flwr.supercore.object_store import ObjectStoreFactory

# A public key as the SuperLink stores it
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

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
    "array_record_from_proto",
    "array_record_to_proto",
    "flwr",
    "inflate_object_from_contents",
    "link_state",
    "parse_superlink_connection",
    "public_key_to_bytes",
    "superlink_parser",
]


@contextmanager
def link_state(database: Path) -> Iterator[LinkStateFactory]:
    """Yield a factory that opens and migrates a SuperLink's database as a SuperLink does."""
    store = ObjectStoreFactory(str(database))
    factory = LinkStateFactory(str(database), NoOpFederationManager(), store)
    try:
        yield factory
    finally:  # Flower leaves its connections open
        parts: tuple[Any, ...] = (factory.state_instance, store.store_instance)
        for part in parts:
            if part is not None:
                part._engine.dispose()
