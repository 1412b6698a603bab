"""What is a fact about the site and not about the run: its data, its files and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common import messages
from common.config import RunConfig
from common.errors import UserError
from common.options import Check, Value, option, parse

REQUESTS = {messages.TRAIN: "train", messages.VALIDATE: "validate", messages.TEST: "test"}
"""What a server may ask for, as the ``serves`` key names it."""


class LimitError(UserError):
    """The server asks for more than the site allows; the text names numbers only and may leave."""


@dataclass(frozen=True)
class SiteSettings:
    """A SuperNode's own configuration. What is set here, no server can override."""

    name: str = option("", key="site")
    """Node key ``site``: value of the column that splits the data, as the site's name; empty in
    simulation, where ``partition`` counts the names of the folder."""
    partition: int | None = option(None, key="partition-id", low=0, high=1_000_000)
    partitions: int | None = option(None, key="num-partitions", low=0, high=1_000_000)
    """This node's number and how many there are, in simulation: ``partition-id`` and
    ``num-partitions``."""
    data_dir: str = ""
    """Folder in ACDC or M&Ms-2 layout. A server never says where a hospital's files are: over a
    network the run's ``data-dir``, ``base-model`` and ``cache-dir`` count for nothing."""
    base_model: str = ""
    """Base file."""
    cache_dir: str = "runs/cache"
    """Where prepared volumes are kept."""
    split_by: str = ""
    """Column that tells the sites of the folder apart; empty to take the run's."""
    affine_axes: str = option("", choices=("", "LPS", "RAS"))
    """What the affines of the site's files are; empty to take the run's."""
    audit_log: str = ""
    """File that every message in and out is written to; empty for ``audit-SITE.jsonl`` in
    ``cache-dir``."""
    max_rank: int = option(0, low=0, high=512)
    """Highest rank that the site trains with; the server is told and keeps to it. 0: no limit."""
    max_local_epochs: int = option(0, low=0, high=10_000)
    """Most epochs a round that the site trains for. 0: no limit."""
    whole_weights: bool = option(False)
    """Whether the site trains and sends all weights of the network when a run asks for it, as plain
    averaging does; otherwise adapters alone leave."""
    serves: str = "train,validate,test"
    """What the site does when it is asked; a site that does not test keeps its test scores."""

    @classmethod
    def from_node(cls, node: Mapping[str, Value], source: str = "node config") -> "SiteSettings":
        """Parse a SuperNode's configuration; errors begin with ``source``.

        Raises
        ------
        UserError
            A key is unknown, a value is wrong, or neither a site nor a partition is given.
        """
        return parse(cls, node, source)

    def checks(self) -> list[Check]:
        """Return what must hold, with the key to blame."""
        requests = list(REQUESTS.values())
        wrong = sorted(self.served() - set(requests)) or [self.serves]
        return [
            ("site", self.name or None, bool(self.name) or self.simulated,
             "the name of this site's data"),
            ("serves", wrong[0], bool(self.served()) and self.served() <= set(requests),
             f"some of {', '.join(requests)}"),
        ]  # fmt: skip

    @property
    def simulated(self) -> bool:
        """Whether the node is one of a simulation, on the machine of the run's own user."""
        return self.partition is not None

    def served(self) -> set[str]:
        """Return what the site does when it is asked."""
        return {word.strip() for word in self.serves.split(",") if word.strip()}

    def audit_name(self) -> str:
        """Return the name of the audit log where none is configured."""
        return f"audit-{self.name.replace('/', '-')}.jsonl"

    def audit_path(self) -> Path:
        """Return where the audit log is."""
        log = Path(self.audit_log) if self.audit_log else Path(self.cache_dir) / self.audit_name()
        return log.expanduser()

    def applied(self, config: RunConfig) -> RunConfig:
        """Return the run's configuration with the site's own facts in it."""
        if self.simulated:
            return config
        data = replace(
            config.data,
            data_dir=self.data_dir,
            cache_dir=self.cache_dir,
            split_by=self.split_by or config.data.split_by,
            affine_axes=self.affine_axes or config.data.affine_axes,
        )
        return replace(config, data=data, base_model=self.base_model)

    def check(self, kind: str, config: RunConfig, rank: int) -> None:
        """Hold a request against the site's limits.

        Raises
        ------
        LimitError
            The site does not serve it, or it asks for too much.
        """
        request = REQUESTS.get(kind)
        if request is not None and request not in self.served():
            raise LimitError(f"this site does not serve {request}")
        if request != "train":
            return
        if config.method.trains == "weights" and not (self.whole_weights or self.simulated):
            raise LimitError("all weights are asked, this site sends adapters alone")
        if self.max_rank and rank > self.max_rank:
            raise LimitError(f"rank {rank} is asked, this site allows {self.max_rank}")
        epochs = config.train.local_epochs
        if self.max_local_epochs and epochs > self.max_local_epochs:
            raise LimitError(f"{epochs} epochs are asked, this site allows {self.max_local_epochs}")
