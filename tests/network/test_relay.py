"""The relay passes bytes on, keeps a copy on demand, and closes its connections."""

import gc
import socket
import struct
import threading

from benchmarks.processes import free_ports
from benchmarks.relay import relay

HERE = "127.0.0.1"


def test_bytes_arrive_and_are_kept_and_open_connections_end_with_it() -> None:
    (port,) = free_ports(1)
    streams: list[bytearray] = []
    with socket.create_server((HERE, 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(connection.recv(100).upper())
                connection.recv(100)  # until the relay ends

        far = threading.Thread(target=answer)
        far.start()
        with relay((HERE, port), server.getsockname()[:2], streams=streams):
            near = socket.create_connection((HERE, port))
            near.sendall(b"hello")
            assert near.recv(100) == b"HELLO"
        far.join(10)
        assert not far.is_alive()
        assert near.recv(100) == b""
        near.close()
    assert streams == [bytearray(b"hello"), bytearray(b"HELLO")]
    gc.collect()  # what was left open would warn now, and a warning is an error


def test_a_target_that_is_away_ends_the_connection() -> None:
    port, nobody = free_ports(2)
    with (
        relay((HERE, port), (HERE, nobody)),
        socket.create_connection((HERE, port), timeout=10) as near,
    ):
        assert near.recv(100) == b""


def test_a_target_that_resets_the_connection_sends_nothing_twice() -> None:
    (port,) = free_ports(1)
    with (
        socket.create_server((HERE, 0)) as server,
        relay((HERE, port), server.getsockname()[:2]),
        socket.create_connection((HERE, port), timeout=10) as near,
    ):
        connection, _ = server.accept()
        connection.sendall(b"hello")
        assert near.recv(100) == b"hello"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()
        assert near.recv(100) == b""
