"""A relay for TCP connections that delays every byte."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CHUNK = 16 * 1024
HELD = 4096
"""Chunks that may be on their way at once: more than rate times delay, so none waits for room."""


@contextmanager
def relay(
    listen: tuple[str, int],
    target: tuple[str, int],
    one_way_s: float = 0.0,
    streams: list[bytearray] | None = None,
) -> Iterator[None]:
    """Forward connections at ``listen`` to ``target``, with a delay of ``one_way_s`` each way.

    ``streams``, if given, receives the bytes that pass, as two streams a connection: one each way.
    """
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    over = asyncio.Event()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*target)
        except OSError:  # nothing listens at the target
            writer.close()
            return
        ways = ((reader, far_writer), (far_reader, writer))
        taps = (bytearray(), bytearray())
        if streams is not None:
            streams.extend(taps)
        try:
            await asyncio.gather(
                *(_pass(*way, one_way_s, tap) for way, tap in zip(ways, taps, strict=True))
            )
        except asyncio.CancelledError:  # the relay is over
            pass
        finally:
            writer.close()
            far_writer.close()

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        server = await asyncio.start_server(accept, *listen)
        ready.set()
        await over.wait()
        server.close()  # asyncio.run cancels the open connections

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    if not ready.wait(10):
        raise RuntimeError(f"the relay does not listen at {listen[0]}:{listen[1]}")
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join(10)


async def _pass(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, one_way_s: float, tap: bytearray
) -> None:
    """Pass on what comes from ``source`` to ``sink`` after the delay, with a copy in ``tap``."""
    clock = asyncio.get_running_loop().time
    held: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(HELD)

    async def read() -> None:
        data = b"-"
        while data:
            data = b""  # a connection that is reset ends here too
            with suppress(ConnectionError):
                data = await source.read(CHUNK)
                tap.extend(data)
            await held.put((clock() + one_way_s, data))

    async def write() -> None:
        while True:
            due, data = await held.get()
            await asyncio.sleep(due - clock())
            if not data:
                break
            sink.write(data)
            await sink.drain()
        sink.close()

    with suppress(ConnectionError):
        await asyncio.gather(read(), write())
