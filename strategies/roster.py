"""The sites that take part: their nodes, their descriptions of themselves and their ranks."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any

from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid

from common.config import RunConfig
from common.errors import UserError
from common.flower_environment import UNREGISTERED
from common.messages import NOT_APPROVED, Describe, Description, ReplyError, read_reply
from strategies import names
from strategies.names import Claim
from strategies.ranks import assign_ranks
from strategies.silence import Silences
from strategies.state import RunState

POLL_S = 1.0
GONE = (3, 4, 5)
"""Codes of an error of Flower's: the message, the reply or the node is not there."""
MEET_S = 30
"""Seconds that a round waits for new nodes to describe themselves."""
ASK_AGAIN_S = (120.0, 3600.0)
"""Seconds after which a node that did not describe itself is asked again: at first, and at most, as
they double every time. Each time costs the others up to ``MEET_S``."""
ASK_APPROVAL_S = (10.0, 300.0)
"""The same for a site that has not approved the run."""

OnWait = Callable[[Sequence[str]], None]
"""Called with the sites that have not approved the run whenever these are others than before."""


@dataclass(frozen=True)
class Member:
    """A site that takes part in the run."""

    node_id: int
    """Flower's id of the site's node, by which replies are matched."""
    facts: Description
    """The site's description of itself."""

    @property
    def name(self) -> str:
        """The site's name, which stays when Flower gives it a new node id after a restart."""
        return self.facts.name


class Roster:
    """The sites of a run by node, refreshed as nodes come and go.

    Parameters
    ----------
    config
        The run's configuration; sent to every site that is asked to describe itself.
    state
        The run's state: its id, and the ranks by site name, which :meth:`gather` fills.
    """

    def __init__(self, config: RunConfig, state: RunState) -> None:
        self.config = config
        self.on_wait: OnWait = lambda _: None
        self.members: dict[int, Member] = {}  # by node: all that were admitted and not replaced
        self.owners = state.owners  # by name, to whom it belongs
        self.run_id = state.run_id
        self.ranks = state.ranks
        self.base_sha256 = config.base_sha256.lower()  # that every site's base file must have
        self.silences = Silences()
        self.refusals: list[tuple[str, str]] = []  # (site, reason); whoever records it empties it
        self._turned_away: set[int] = set()
        self._connected: set[int] = set()
        self._away: set[int] = set()  # members that left and were not asked since they came back
        self._silent: dict[int, float] = {}  # by node, when to ask again
        self._unapproved: dict[int, str] = {}  # by node, the sites that have not approved the run
        self._patience: dict[int, float] = {}  # by node, seconds until it is asked again

    def gather(self, grid: Grid) -> None:
        """Wait for the run's sites and their approval, and fix the ranks.

        Raises
        ------
        UserError
            Fewer than ``min-sites`` can take part.
        """
        federation = self.config.federation
        deadline = time.monotonic() + federation.wait_s
        while len(nodes := list(grid.get_node_ids())) < federation.sites:
            if time.monotonic() > deadline:
                log(WARNING, "%d of %d sites connected", len(nodes), federation.sites)
                break
            time.sleep(POLL_S)
        online = self.online(grid, federation.round_timeout_s)
        deadline = time.monotonic() + federation.approval_wait_s
        while len(online) < federation.sites and self._unapproved and time.monotonic() < deadline:
            time.sleep(POLL_S)
            online = self.online(grid)
        self._settle_base()
        online = [site for site in online if site.node_id in self.members]
        if len(online) < federation.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in self.refusals)
            why = why or f"{len(nodes)} connected within {federation.wait_s} s"
            raise UserError(
                f"{len(online)} site(s) can take part, expected at least min-sites = "
                f"{federation.min_sites}: {why}"
            )
        if not self.ranks:
            examples = {site.name: site.facts.train_examples for site in online}
            model = self.config.model
            self.ranks.update(assign_ranks(model.ranks, model.rank, examples))
        for site in online:
            log(INFO, "%s: rank %d, %s", site.name, self.rank(site), _counts(site.facts))

    def online(self, grid: Grid, patience_s: float = MEET_S) -> list[Member]:
        """Return the members that are connected now, sorted by name.

        New nodes are first asked to describe themselves, and waited for ``patience_s`` seconds.
        Members that were gone are asked again, as their base file may have changed.
        """
        nodes = set(grid.get_node_ids())
        if gone := self._connected - nodes:  # the name that was taken may be free now
            self._turned_away.clear()
            self._away |= gone & set(self.members)
        self._connected = nodes
        now = time.monotonic()
        self._silent = {n: until for n, until in self._silent.items() if n in nodes and now < until}
        self._now_unapproved({n: site for n, site in self._unapproved.items() if n in nodes})
        known = set(self.members) - self._away
        if new := nodes - known - self._turned_away - set(self._silent):
            self._meet(grid, nodes, sorted(new), patience_s)
        here = nodes - self._away
        return sorted((s for node, s in self.members.items() if node in here), key=lambda s: s.name)

    def rank(self, site: Member) -> int:
        """Return the site's rank, within its own limit; a late joiner gets the lowest rank."""
        rank = self.ranks.get(site.name, min(self.ranks.values()))
        return rank if site.facts.max_rank is None else min(rank, site.facts.max_rank)

    def ask_again(self, site: Member) -> None:
        """Let a site describe itself again before it is sent anything else."""
        self._away.add(site.node_id)

    def _meet(self, grid: Grid, connected: set[int], new: list[int], patience_s: float) -> None:
        content = Describe(self.config, self.run_id).to_record()
        replies = grid.send_and_receive(
            [Message(content, dst_node_id=node, message_type=Describe.kind) for node in new],
            timeout=min(patience_s, self.config.federation.round_timeout_s),
        )
        known = {info.node_id: info for info in grid.get_nodes()}
        registered = {node: info.name for node, info in known.items() if info.name}
        self._turned_away.update(new)  # until they are admitted or some node leaves
        silent = set(new)
        unapproved = {n: site for n, site in self._unapproved.items() if n not in silent}
        described: list[Member] = []
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in silent or (reply.has_error() and reply.error.code in GONE):
                continue
            silent.discard(node)
            try:
                described.append(Member(node, read_reply(reply, Description.from_record)))
            except ReplyError as error:
                name = error.site or registered.get(node) or f"node {node}"
                if str(error) == NOT_APPROVED:
                    unapproved[node] = name
                if node not in unapproved or node not in self._unapproved:  # else on record already
                    self.refusals.append((name, str(error)))
        self.refusals += [
            (registered.get(node) or f"node {node}", "no answer") for node in sorted(silent)
        ]
        now = time.monotonic()
        self._turned_away -= silent | set(unapproved)
        waits = ((silent, ASK_AGAIN_S), (set(unapproved) & set(new), ASK_APPROVAL_S))
        for nodes, (first, most) in waits:
            for node in nodes:
                self._patience[node] = min(max(2 * self._patience.get(node, 0), first), most)
                self._silent[node] = now + self._patience[node]
        self._now_unapproved(unapproved)
        described.sort(key=lambda site: (site.name, site.node_id))  # not by who answered first
        claims = {
            node: Claim(node, site.name, registration(known.get(node)), registered.get(node, ""))
            for node, site in ((site.node_id, site) for site in described)
        }
        holders = {site.name: node for node, site in self.members.items()}
        denied = names.decide(claims.values(), self.owners, holders, connected)
        for site in described:
            reason = denied[site.node_id] or self._excluded(site) or self._unlike(site)
            if reason:
                self.refusals.append((site.name, reason))
            else:
                self._admit(site, claims[site.node_id])

    def _excluded(self, site: Member) -> str:
        excluded = site.name in self.config.federation.excluded()
        return "the run's key exclude names it" if excluded else ""

    def _now_unapproved(self, unapproved: dict[int, str]) -> None:
        before = sorted(set(self._unapproved.values()))
        self._unapproved, now = unapproved, sorted(set(unapproved.values()))
        if now != before:
            if now:
                log(INFO, "waiting for approval by %s", ", ".join(now))
            self.on_wait(now)

    def _unlike(self, site: Member) -> str:
        """Return what is wrong with the site's base file; empty where it is the run's."""
        sha256 = site.facts.base_sha256
        if self.base_sha256 in ("", sha256):
            return ""
        return f"its base model has SHA-256 {sha256[:16]}…, expected {self.base_sha256[:16]}…"

    def _admit(self, site: Member, claim: Claim) -> None:
        for node, other in list(self.members.items()):
            if other.name == site.name:  # the same site, back with a new node id or the old one
                del self.members[node]
                if node != site.node_id and node in self._connected:  # it had the name meanwhile
                    self._turned_away.add(node)
                    self.refusals.append((site.name, names.OTHERS))
        self.owners.setdefault(site.name, claim.owner)
        self.members[site.node_id] = site
        self.silences.forget(site.name)
        self._turned_away.discard(site.node_id)
        self._patience.pop(site.node_id, None)
        self._away.discard(site.node_id)

    def _settle_base(self) -> None:
        """Take the base file of most sites as the run's, and turn the others away.

        Raises UserError where no file is that of more than half of them.
        """
        found = Counter(site.facts.base_sha256 for site in self.members.values())
        if self.base_sha256 or not found:
            return
        self.base_sha256, most = found.most_common(1)[0]
        if 2 * most <= found.total():
            files = ", ".join(
                f"{site.name}: {site.facts.base_sha256[:16]}…"
                for site in sorted(self.members.values(), key=lambda site: site.name)
            )
            raise UserError(
                f"the sites' base models differ and none is that of most ({files}); set "
                "base-sha256 to the SHA-256 of the right one"
            )
        for node, site in list(self.members.items()):
            if reason := self._unlike(site):
                del self.members[node]
                self._turned_away.add(node)
                self.refusals.append((site.name, reason))


def registration(info: Any) -> str:
    """Return what stays of a node when its site starts again; empty where it is not registered.

    ``info`` is what Flower knows of the node. It is the name that the coordinator registered, so
    that a key can be replaced during a run, or else a hash of the key. A SuperLink without
    registration has keys too, which sites make anew at each start.
    """
    key = getattr(info, "public_key", b"")
    if os.environ.get(UNREGISTERED) or not key:
        return ""
    return f"name {info.name}" if info.name else f"key {hashlib.sha256(key).hexdigest()}"


def _counts(facts: Description) -> str:
    cases = f"{facts.train_cases} train, {facts.val_cases} val, {facts.test_cases} test"
    return f"{cases} cases, {facts.train_examples} training slices"
