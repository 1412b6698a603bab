"""Who takes part: which nodes are there, what their sites are called and how large they are."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from logging import INFO, WARNING

from flwr.app import Message, RecordDict
from flwr.common import log
from flwr.serverapp import Grid

from common import records
from common.config import RunConfig
from common.errors import UserError
from strategies.ranks import assign_ranks
from strategies.replies import ReplyError, read_description

POLL_S = 1.0
MEET_S = 30
"""How long a round that goes on waits for newcomers to describe themselves."""
ASK_AGAIN_S = 120.0
"""When a node that did not describe itself is asked once more."""


@dataclass(frozen=True)
class Site:
    """A hospital that takes part.

    Attributes
    ----------
    node_id
        Flower's key; answers are told apart by it.
    name
        For people, and for going on after a restart, when Flower gives new keys.
    train_examples
        Slices in the training split.
    facts
        All that the site said of itself: cases by split, base file.
    """

    node_id: int
    name: str
    train_examples: int
    base_sha256: str
    facts: Mapping[str, object]

    @property
    def max_rank(self) -> int | None:
        """The highest rank that the site's own limits allow; None where there is no limit."""
        value = self.facts.get("max-rank")
        return value if isinstance(value, int) else None


class Roster:
    """The sites of a run by node, refreshed as nodes come and go.

    Parameters
    ----------
    config
        The run's configuration; sent to every site that is asked to describe itself.
    ranks
        By site name, those of the run so far; filled when the run starts, then kept.

    Attributes
    ----------
    sites
        By node, all that were ever admitted and not replaced.
    ranks
        By name, fixed when the run starts.
    base_sha256
        The fingerprint that every site's base file must have.
    refusals
        (site, reason) of nodes that were turned away; whoever records them empties the list.
    """

    def __init__(self, config: RunConfig, ranks: dict[str, int]) -> None:
        self.config = config
        self.sites: dict[int, Site] = {}
        self.ranks = ranks
        self.base_sha256 = config.base_sha256.lower()
        self.refusals: list[tuple[str, str]] = []
        self._turned_away: set[int] = set()
        self._connected: set[int] = set()
        self._away: set[int] = set()  # admitted, gone, and not asked since they came back
        self._silent: dict[int, float] = {}  # by node, when to ask again

    def gather(self, grid: Grid) -> None:
        """Wait for the run's sites, get to know them and fix their ranks.

        Raises
        ------
        UserError
            Fewer than ``min-sites`` can take part.
        """
        method = self.config.method
        deadline = time.monotonic() + method.wait_s
        while len(nodes := list(grid.get_node_ids())) < method.sites:
            if time.monotonic() > deadline:
                log(WARNING, "%d of %d sites connected", len(nodes), method.sites)
                break
            time.sleep(POLL_S)
        online = self.online(grid, method.round_timeout_s)
        if len(online) < method.min_sites:
            why = "; ".join(f"{site}: {reason}" for site, reason in self.refusals)
            why = why or f"{len(nodes)} connected within {method.wait_s} s"
            raise UserError(
                f"{len(online)} site(s) can take part, expected at least min-sites = "
                f"{method.min_sites}: {why}"
            )
        if not self.ranks:
            examples = {site.name: site.train_examples for site in online}
            model = self.config.model
            self.ranks.update(assign_ranks(model.ranks, model.rank, examples))
        for site in online:
            log(INFO, "%s: rank %d, %s", site.name, self.rank(site), _facts(site))

    def online(self, grid: Grid, patience_s: float = MEET_S) -> list[Site]:
        """Return the sites that are connected now, sorted by name; new nodes are asked first.

        Parameters
        ----------
        grid
            Of the run.
        patience_s
            How long to wait for what new nodes say of themselves. Sites that were gone are asked
            again, as their base file may be another one now.
        """
        nodes = set(grid.get_node_ids())
        if gone := self._connected - nodes:  # a name that was taken may be free now
            self._turned_away.clear()
            self._away |= gone & set(self.sites)
        self._connected = nodes
        now = time.monotonic()
        self._silent = {n: until for n, until in self._silent.items() if n in nodes and now < until}
        known = set(self.sites) - self._away
        if new := nodes - known - self._turned_away - set(self._silent):
            self._meet(grid, nodes, sorted(new), patience_s)
        here = nodes - self._away
        return sorted((s for node, s in self.sites.items() if node in here), key=lambda s: s.name)

    def rank(self, site: Site) -> int:
        """Return the site's rank, within its own limit.

        One that joins later gets that of the smallest site.
        """
        rank = self.ranks.get(site.name, min(self.ranks.values()))
        return rank if site.max_rank is None else min(rank, site.max_rank)

    def _meet(self, grid: Grid, connected: set[int], new: list[int], patience_s: float) -> None:
        content = RecordDict({records.CONFIG: records.config_to_record(self.config)})
        replies = grid.send_and_receive(
            [Message(content, dst_node_id=node, message_type=records.DESCRIBE) for node in new],
            timeout=min(patience_s, self.config.method.round_timeout_s),
        )
        registered = {info.node_id: info.name for info in grid.get_nodes() if info.name}
        self._turned_away.update(new)  # until they are admitted, or some node leaves
        silent = set(new)
        described: list[tuple[str, int, Mapping[str, object]]] = []
        for reply in replies:
            node = reply.metadata.src_node_id
            if node not in silent:  # the SuperLink itself, of a node that is gone
                continue
            silent.discard(node)
            try:
                facts = read_description(reply)
                described.append((str(facts["site"]), node, facts))
            except ReplyError as error:
                name = error.site or registered.get(node) or f"node {node}"
                self.refusals.append((name, str(error)))
        self.refusals += [
            (registered.get(node) or f"node {node}", "no answer") for node in sorted(silent)
        ]
        self._turned_away -= silent
        self._silent |= dict.fromkeys(silent, time.monotonic() + ASK_AGAIN_S)
        if not self.base_sha256 and described:  # what most of them have
            found = Counter(
                str(facts["base-sha256"]) for _, _, facts in sorted(described, key=_key)
            )
            self.base_sha256 = found.most_common(1)[0][0]
        for name, node, facts in sorted(described, key=_key):
            try:
                self._admit(node, facts, connected)
                self._turned_away.discard(node)
            except ReplyError as error:
                self.refusals.append((name, str(error)))

    def _admit(self, node: int, facts: Mapping[str, object], connected: set[int]) -> None:
        name, sha256 = str(facts["site"]), str(facts["base-sha256"])
        for other, site in list(self.sites.items()):
            if site.name == name and other != node and other in connected:
                raise ReplyError(f"another connected site is called {name!r} already")
            if site.name == name:  # the same site, back under a new key or the old one
                del self.sites[other]
        if sha256 != self.base_sha256:
            raise ReplyError(
                f"its base model has SHA-256 {sha256[:16]}…, expected {self.base_sha256[:16]}…"
            )
        self.sites[node] = Site(node, name, int(str(facts["train-examples"])), sha256, facts)
        self._away.discard(node)


def _key(described: tuple[str, int, Mapping[str, object]]) -> tuple[str, int]:
    """Sort sites by name, not by who answered first."""
    return described[:2]


def _facts(site: Site) -> str:
    counts = [
        f"{site.facts.get(f'{split}-cases', 0)} {split}" for split in ("train", "val", "test")
    ]
    return f"{', '.join(counts)} cases, {site.train_examples} training slices"
