"""The settings of a site, which no run can change: its data, its files and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common import messages
from common.config import RunConfig
from common.errors import UserError
from common.messages import SHA256
from common.options import Check, Value, option, parse

REQUESTS = {messages.TRAIN: "train", messages.VALIDATE: "validate", messages.TEST: "test"}
"""The word in ``serves`` for each kind of request that a site may decline."""


class LimitError(UserError):
    """The server asks for more than the site allows; the text names no file and may leave."""


@dataclass(frozen=True)
class SiteSettings:
    """A SuperNode's own configuration, which no server can override."""

    name: str = option("", key="site")
    """Key ``site``: the site's name, as in the column that splits the data; empty in simulation,
    where ``partition`` counts the names in that column."""
    partition: int | None = option(None, key="partition-id", low=0, high=1_000_000)
    partitions: int | None = option(None, key="num-partitions", low=0, high=1_000_000)
    """Number of this node, and how many nodes there are, in simulation."""
    data_dir: str = ""
    """Folder of the site's cases, in one of the layouts of ``cardiac.datasets``. Over a network the
    run's own ``data-dir``, ``base-model`` and ``cache-dir`` count for nothing."""
    base_model: str = ""
    """File of the base model."""
    cache_dir: str = "runs/cache"
    """Folder for prepared volumes, and for what the site keeps between rounds."""
    split_by: str = ""
    """Column that tells the sites of the folder apart; empty to take the run's."""
    affine_axes: str = option("", choices=("", "LPS", "RAS"))
    """Convention of the affines in the site's files; empty to take the run's."""
    audit_log: str = ""
    """File that every message in and out is written to; empty for ``audit-SITE.jsonl`` in
    ``cache-dir``."""
    max_rank: int = option(0, low=0, high=512)
    """Highest rank that the site trains with, which it tells the server. 0: no limit."""
    max_local_epochs: int = option(0, low=0, high=10_000)
    """Most epochs that the site trains in a round. 0: no limit."""
    max_memory_gib: float = option(16.0, above=0, high=65_536)
    """Most memory that a run may need here, in GiB; with a GPU, its memory."""
    max_cache_gib: float = option(100.0, above=0, high=1_048_576)
    """Most that prepared volumes may take on disk, in GiB; the oldest are removed."""
    threads: int = option(0, low=0, high=1024)
    """CPU threads of the site's process; 0 keeps torch's default. Over a network the run's own
    ``threads`` and ``device`` count for nothing."""
    device: str = option("auto", choices=("auto", "cpu", "cuda"))
    """Device to compute on; ``auto`` takes a GPU where there is one."""
    whole_weights: bool = option(False)
    """Whether the site trains and sends all weights of the network when a run asks for it, as plain
    averaging does; otherwise it sends adapters alone."""
    serves: str = "train,validate,test"
    """Requests that the site answers; a site without ``test`` keeps its test scores."""
    approve: str = option("ask", choices=("ask", "listed", "any"))
    """Which runs the site answers: ``ask``, those that ``rate-my-lora approve`` approved;
    ``listed``, also the first run of each configuration in ``approved``; ``any``, every run."""
    approved: str = ""
    """SHA-256 of configurations, separated by commas, as ``rate-my-lora approve`` lists them."""
    max_messages: int = option(1000, low=1, high=1_000_000)
    """Most messages of one run that the site answers, repeated ones too."""
    max_rounds: int = option(100, low=1, high=100_000)
    """Most rounds of a run."""
    max_others: int = option(8, low=0, high=1000)
    """Most adapters that the site rates in one message beside the merge."""
    max_mib_out: int = option(1024, low=1, high=1_000_000)
    """Most MiB of tensors that leave the site in one run."""
    max_change: float = option(0.0, low=0, high=1_000_000)
    """How far what the site is sent may be from what it trained last, as a multiple of how far that
    is from the base; 0 for any distance."""

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
        """Return the checks of the site's name and of ``serves``."""
        requests = list(REQUESTS.values())
        wrong = sorted(self.served() - set(requests)) or [self.serves]
        return [
            ("site", self.name or None, bool(self.name) or self.simulated,
             "the name of this site's data"),
            ("serves", wrong[0], bool(self.served()) and self.served() <= set(requests),
             f"some of {', '.join(requests)}"),
            *(("approved", word, bool(SHA256.fullmatch(word)), "hashes, separated by commas")
              for word in sorted(self.listed())),
        ]  # fmt: skip

    @property
    def simulated(self) -> bool:
        """Whether the node is part of a simulation, and so belongs to the run's own user."""
        return self.partition is not None

    def served(self) -> set[str]:
        """Return the words in ``serves``."""
        return _words(self.serves)

    def listed(self) -> set[str]:
        """Return the hashes in ``approved``."""
        return _words(self.approved.lower())

    def audit_name(self) -> str:
        """Return the audit log's file name where ``audit-log`` is not set."""
        return f"audit-{self.name.replace('/', '-')}.jsonl"

    def audit_path(self) -> Path:
        """Return the path of the audit log."""
        log = Path(self.audit_log) if self.audit_log else Path(self.cache_dir) / self.audit_name()
        return log.expanduser()

    def applied(self, config: RunConfig) -> RunConfig:
        """Return the run's configuration with the site's own settings in it."""
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
        """Check a request of Flower's message type ``kind`` against the site's limits.

        Raises
        ------
        LimitError
            The site does not serve the request, or the request asks for too much.
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


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}
