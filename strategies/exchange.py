"""Messages of a round: sent to the sites, matched with replies, and recorded."""

import time
from collections.abc import Iterable
from logging import WARNING

from flwr.app import Message, Metadata
from flwr.common import log
from flwr.serverapp import Grid

from common.config import RunConfig
from common.flower_private import SUPERLINK_NODE_ID
from common.messages import Request, audit_hash, payload
from common.text import NAME_LENGTH, clean
from strategies.grid import LATE
from strategies.roster import Member, Roster
from strategies.state import RoundRecord, RunState


class Exchange:
    """Addresses messages to sites, matches the replies and keeps the round's record.

    ``roster`` says who takes part; ``record`` is the record of the present round.
    """

    def __init__(self, config: RunConfig, state: RunState) -> None:
        self.config = config
        self.roster = Roster(config, state)
        self.record = RoundRecord(0)
        self._asked: list[tuple[Metadata, Member]] = []
        self._clock = time.monotonic()

    def begin(self, server_round: int) -> None:
        """Begin a round with an empty record."""
        self.record = RoundRecord(server_round)
        self._clock = time.monotonic()

    def online(self, grid: Grid) -> list[Member]:
        """Return the sites to send to; record those turned away since the last call."""
        sites = self.roster.online(grid)
        for name, reason in self.roster.refusals:
            self.refuse("join", name, reason)
        self.roster.refusals.clear()
        silences, now = self.roster.silences, self.record.server_round
        return [site for site in sites if silences.is_due(site.name, now)]

    def message(self, site: Member, request: Request) -> Message:
        """Return a message to a site and count its payload."""
        message = Message(request.to_record(), dst_node_id=site.node_id, message_type=request.kind)
        self._asked.append((message.metadata, site))
        self.record.add_bytes(site.name, down=payload(message))
        return message

    def send(self, grid: Grid, messages: list[Message]) -> Iterable[Message]:
        """Send messages and wait for the replies, no longer than ``round-timeout-s``."""
        return grid.send_and_receive(messages, timeout=self.config.federation.round_timeout_s)

    def by_site(self, replies: Iterable[Message], phase: str) -> list[tuple[Member, Message]]:
        """Return each site with its reply, sorted by name, and count the replies' payload.

        Sites that are silent, not asked or gone are recorded as refused.
        """
        asked = {metadata.message_id: site.node_id for metadata, site in self._asked}
        waited = {site.name for _, site in self._asked}
        self._asked.clear()
        by_node = {}
        for reply in replies:
            node, answered = reply.metadata.src_node_id, reply.metadata.reply_to_message_id
            if node == SUPERLINK_NODE_ID and answered:  # it answers for a site that is gone
                node = asked.get(answered, node)
            by_node[node] = reply
        found: list[tuple[Member, Message]] = []
        silences, now = self.roster.silences, self.record.server_round
        late = {node for node, r in by_node.items() if r.has_error() and r.error.code == LATE}
        spoke = {s.name for s in self.roster.members.values() if s.node_id in {*by_node} - late}
        silences.note(now, waited - spoke, waited & spoke)
        for site in sorted(self.roster.members.values(), key=lambda site: site.name):
            if site.node_id in by_node:
                found.append((site, by_node[site.node_id]))
                self.record.add_bytes(site.name, up=payload(by_node[site.node_id]))
                if sha256 := audit_hash(by_node[site.node_id]):
                    self.record.audit[site.name] = sha256
            elif site.name in waited or silences.is_due(site.name, now):
                self.refuse(phase, site.name, "no answer")
            else:
                self.refuse(phase, site.name, silences.reason(site.name))
        return found

    def refuse(self, phase: str, site: str, reason: str) -> None:
        """Record and log that something of a site is left out."""
        self.record.refuse(site, phase, reason)
        log(WARNING, "%s is left out of %s: %s", clean(site, NAME_LENGTH), phase, clean(reason))

    def split_time(self, phase: str) -> None:
        """Record as the time of ``phase`` the seconds since the last call or the round's start."""
        now = time.monotonic()
        self.record.seconds[phase] = round(now - self._clock, 3)
        self._clock = now
