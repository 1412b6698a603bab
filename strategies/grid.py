"""A grid around Flower's that takes each site's reply by itself: none delays or ends a phase."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from common import flower_private as flower
from common.flower_private import ObjectPushError, Run, RuntimeHttpClient, TooLargeError
from common.text import size

SOON_S, LATE_S = 0.05, 3.0
"""Shortest and longest time between two looks for replies."""
PART = 0.02
"""Part of the time waited so far after which to look again: the most that waiting adds."""
OBJECTS, MIB = 32, 2**20
"""Most objects of a reply: these, and one for each MiB. Flower cuts arrays into chunks of 5 MiB."""
UNUSABLE, LATE = 0, 4
"""Codes of an error in place of a reply; Flower calls them unknown and reply unavailable."""


class RefusedError(Exception):
    """A reply that is not waited for any longer; the text says why."""


@dataclass
class _Awaited:
    """A request that was sent, and what has come of its reply."""

    request: Message
    id: str
    """The SuperLink's id of the request."""
    most: int
    """Most bytes that the reply may have."""
    reply: str = ""
    """Id of the reply; empty before the site has announced it."""
    missing: list[str] = field(default_factory=list)
    """Objects of the reply that have not come."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Objects of the reply that have come, by id."""

    @property
    def left(self) -> int:
        """Bytes that may still come."""
        return self.most - sum(map(len, self.objects.values()))


class SiteGrid(Grid):
    """Sends each message and takes each reply by itself, under one deadline for all.

    Flower's grid for deployed runs waits for a reply that was announced and not sent, reads it
    whatever its size, and raises where it is malformed. Here such a reply becomes an error message
    of that site, and the other sites' replies are not touched by it.

    Parameters
    ----------
    grid
        The grid that Flower gave the ServerApp, or any other. One that cannot push and pull is
        asked to send and receive.
    most
        Returns the most bytes that the reply to a request can rightly have.
    """

    def __init__(self, grid: Grid, most: Callable[[Message], int]) -> None:
        self._grid = grid
        self._most = most
        self._superlink: RuntimeHttpClient | None = None

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Send messages and return the replies that came in time, with an error for each bad one.

        A site that announced no reply has none. ``timeout`` is in seconds; None waits for all.
        """
        begun = time.monotonic()
        messages = list(messages)
        self._superlink = flower.superlink_of(self._grid)
        try:
            sent = [(message, self._push(message)) for message in messages]
        except NotImplementedError:
            return self._received(messages, timeout)
        waiting = [_Awaited(message, id_, self._most(message)) for message, id_ in sent if id_]
        replies = [_error(message, "it could not be sent") for message, id_ in sent if not id_]
        while True:
            found = [(one, self._look(one)) for one in waiting]
            replies += [reply for _, reply in found if reply is not None]
            waiting = [one for one, reply in found if reply is None]
            passed = time.monotonic() - begun
            left = LATE_S if timeout is None else timeout - passed
            if not waiting or left <= 0:
                break
            time.sleep(min(max(SOON_S, passed * PART), LATE_S, left))
        late = [one for one in waiting if one.reply]
        reason = f"its reply did not come whole within {timeout:g} s" if late else ""
        return replies + [_error(one.request, reason, LATE) for one in late]

    def _received(self, messages: list[Message], timeout: float | None) -> list[Message]:
        """Let the grid itself send and receive; replies that are too large become errors."""
        asked = {message.metadata.dst_node_id: message for message in messages}
        replies = []
        for reply in self._grid.send_and_receive(messages, timeout=timeout):
            request = asked.get(reply.metadata.src_node_id)
            replies.append(reply if request is None else self._fitting(request, reply))
        return replies

    def _push(self, message: Message) -> str:
        """Return the SuperLink's id of a message that was sent; empty where it was not."""
        try:
            return next(iter(self._grid.push_messages([message])), "") or ""
        except httpx.HTTPStatusError:  # too large for the SuperLink, or the node is gone
            return ""
        except ObjectPushError:  # the site says that it has the message before it is there
            return ""

    def _look(self, awaited: _Awaited) -> Message | None:
        """Return the reply, or an error in its place; None where it has to be waited for."""
        try:
            if self._superlink is None:
                return self._pull(awaited)
            return self._pull_objects(self._superlink, awaited)
        except RefusedError as error:
            return _error(awaited.request, str(error))
        except TooLargeError:
            return _error(awaited.request, f"its reply has more than {size(awaited.most)}")
        except httpx.HTTPStatusError as error:
            code = error.response.status_code
            return _error(awaited.request, f"its reply cannot be read (status {code})")

    def _pull(self, awaited: _Awaited) -> Message | None:
        try:
            found = list(self._grid.pull_messages([awaited.id]))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise RefusedError(f"its reply cannot be read ({type(error).__name__})") from None
        return self._fitting(awaited.request, found[0]) if found else None

    def _pull_objects(self, superlink: RuntimeHttpClient, awaited: _Awaited) -> Message | None:
        """Take the objects of a reply that are there; return the reply when it has them all."""
        run_id = self._grid.run.run_id
        if not awaited.reply:
            found = flower.announced(superlink, awaited.id, awaited.most)
            if found is None:
                return None
            awaited.reply, awaited.missing = found
            if len(awaited.missing) > OBJECTS + awaited.most // MIB:
                raise TooLargeError
        try:
            while awaited.missing:
                content = flower.pull_object(superlink, run_id, awaited.missing[0], awaited.left)
                if not content:
                    return None
                awaited.objects[awaited.missing.pop(0)] = content
        except LookupError:
            raise RefusedError("its reply came in part") from None
        except TooLargeError:
            flower.discard(superlink, run_id, awaited.reply)
            raise
        flower.discard(superlink, run_id, awaited.reply)
        try:
            if flower.unpacked_bytes(awaited.objects) > awaited.most:
                raise TooLargeError
            reply = flower.put_together(awaited.reply, awaited.objects)
        except TooLargeError:
            raise
        except Exception as error:  # hostile bytes raise anything
            raise RefusedError(f"its reply cannot be read ({type(error).__name__})") from None
        return self._fitting(awaited.request, reply)

    def _fitting(self, request: Message, reply: Message) -> Message:
        """Return the reply, or an error where it has more bytes than it can rightly have.

        Who answers what follows from the request: what the reply says of it is the site's word.
        """
        if reply.has_error():
            return Message(reply.error, reply_to=request)
        if _held_bytes(reply.content) > (most := self._most(request)):
            return _error(request, f"its reply has more than {size(most)}")
        return Message(reply.content, reply_to=request)

    def get_node_ids(self) -> Iterable[int]:
        """Return the connected nodes."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """Return what Flower knows of the connected nodes."""
        return self._grid.get_nodes()

    @property
    def run(self) -> Run:
        """Flower's facts about the run."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the run."""
        self._grid.set_run(run)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send messages; return their ids."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies to messages that have come."""
        return self._grid.pull_messages(message_ids)

    def create_message(self, *args: Any, **keys: Any) -> Message:
        """Return a message as Flower's grid makes it."""
        return self._grid.create_message(*args, **keys)


def _error(request: Message, reason: str, code: int = UNUSABLE) -> Message:
    """Return an error in place of the reply to a request."""
    return Message(Error(code, reason), reply_to=request)


def _held_bytes(content: RecordDict) -> int:
    """Return about how many bytes a message's records hold."""
    return sum(
        sum(len(key) + len(str(value)) for key, value in record.items())
        if isinstance(record, ConfigRecord)
        else record.count_bytes()
        for record in content.values()
    )
