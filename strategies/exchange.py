"""Talking to the sites in a round: messages out, replies matched, everything on record."""

import time
from collections.abc import Iterable, Mapping
from logging import WARNING

from flwr.app import ArrayRecord, Message, Metadata, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from common import records
from common.config import RunConfig
from common.flower_private import SUPERLINK_NODE_ID
from strategies.replies import payload
from strategies.roster import Roster, Site
from strategies.state import RoundRecord


class Exchange:
    """What a strategy sends and receives, with the record of the round it belongs to.

    Parameters
    ----------
    config
        The run's configuration; it travels in every message.
    ranks
        By site name, see :class:`strategies.roster.Roster`.

    Attributes
    ----------
    roster
        Who takes part.
    record
        Of the round that is going on.
    """

    def __init__(self, config: RunConfig, ranks: dict[str, int]) -> None:
        self.config = config
        self.roster = Roster(config, ranks)
        self.record = RoundRecord(0)
        self._asked: list[tuple[Metadata, Site]] = []
        self._clock = time.monotonic()

    def begin(self, server_round: int) -> None:
        """Open the record of a round."""
        self.record = RoundRecord(server_round)
        self._clock = time.monotonic()

    def online(self, grid: Grid) -> list[Site]:
        """Return the sites to send to, and record who was turned away since the last time."""
        sites = self.roster.online(grid)
        for name, reason in self.roster.refusals:
            self.refuse("join", name, reason)
        self.roster.refusals.clear()
        return sites

    def message(
        self, site: Site, kind: str, arrays: Mapping[str, ArrayRecord], **extra: int
    ) -> Message:
        """Return a message to a site; its payload is counted.

        Parameters
        ----------
        site
            Who gets it.
        kind
            Its type, of :mod:`common.records`.
        arrays
            What it brings, by key.
        **extra
            Of ``records.MESSAGE_KEYS`` but the round, with underscores.
        """
        more = {key.replace("_", "-"): value for key, value in extra.items()}
        more["server-round"] = self.record.server_round
        config = records.config_to_record(self.config, **more)
        content = RecordDict({records.CONFIG: config, **arrays})
        message = Message(content, dst_node_id=site.node_id, message_type=kind)
        self._asked.append((message.metadata, site))
        self.record.add_bytes(site.name, down=payload(message))
        return message

    def send(self, grid: Grid, messages: list[Message]) -> Iterable[Message]:
        """Send messages and wait for the replies, no longer than ``round-timeout-s``."""
        return grid.send_and_receive(messages, timeout=self.config.method.round_timeout_s)

    def by_site(self, replies: Iterable[Message], phase: str) -> list[tuple[Site, Message]]:
        """Return replies with their sites, by name; sites silent or gone are recorded."""
        asked = {metadata.message_id: site.node_id for metadata, site in self._asked}
        self._asked.clear()
        by_node = {}
        for reply in replies:
            node, answered = reply.metadata.src_node_id, reply.metadata.reply_to_message_id
            if node == SUPERLINK_NODE_ID and answered:  # it answers for a site that is gone
                node = asked.get(answered, node)
            by_node[node] = reply
        found = []
        for site in sorted(self.roster.sites.values(), key=lambda site: site.name):
            if site.node_id in by_node:
                found.append((site, by_node[site.node_id]))
            else:
                self.refuse(phase, site.name, "no answer")
        return found

    def refuse(self, phase: str, site: str, reason: str) -> None:
        """Record and log that something of a site is left out."""
        self.record.refuse(site, phase, reason)
        log(WARNING, "%s is left out of %s: %s", site, phase, reason)

    def split_time(self, phase: str) -> None:
        """Record the seconds since the last phase, or the round's beginning, as ``phase``'s."""
        now = time.monotonic()
        self.record.seconds[phase] = round(now - self._clock, 3)
        self._clock = now
