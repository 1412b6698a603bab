"""The settings of a site, which no run can change: its data, its files and its limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cardiac.splits import Cohorts
from common import messages
from common.config import HIGHEST_SEED, RunConfig
from common.errors import UserError
from common.files import cut_name
from common.options import Check, Value, option, parse
from common.text import A_NAME, is_name

REQUESTS = {messages.TRAIN: "train", messages.VALIDATE: "validate", messages.TEST: "test"}
"""The word in ``serves`` for each kind of request that a site may decline."""


class LimitError(UserError):
    """The server asks for more than the site allows; the text names no file and may leave."""


@dataclass(frozen=True)
class PrivacySettings:
    """Differential privacy of the site's patients in what the site trains and sends."""

    noise_multiplier: float = option(0.0, low=0, high=1000)
    """σ: standard deviation of the noise on a sum of patients' gradients, in units of
    ``clip-norm``. 0: training without noise, and without any bound on what it tells."""
    clip_norm: float = option(1.0, above=0, high=1e6)
    """Longest gradient of a patient; longer ones are scaled down to it."""
    sampling_rate: float = option(0.25, above=0, high=1)
    """Probability with which a training step draws a patient; an epoch has 1 / this steps."""
    delta: float = option(0.001, above=0, high=0.1)
    """δ: chance that the bound ε does not hold; well below 1 / number of training patients."""
    max_epsilon: float = option(10.0, above=0, high=1e9)
    """Highest ε of all runs of the site together; the site trains no more beyond it."""

    @property
    def on(self) -> bool:
        """Whether the site trains with noise."""
        return self.noise_multiplier > 0

    def steps(self, epochs: int) -> int:
        """Return the number of training steps of some epochs."""
        return max(1, round(epochs / self.sampling_rate))


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
    split_by: str = "VENDOR"
    """Column that tells the sites of the folder apart. Over a network the run's own ``split-by``,
    ``affine-axes`` and ``split-seed`` count for nothing."""
    affine_axes: str = option("LPS", choices=("LPS", "RAS"))
    """Convention of the affines in the site's files."""
    split_seed: int = option(0, low=0, high=HIGHEST_SEED)
    """Seed of the split into training, validation and test patients, which no run can move."""
    min_train_patients: int = option(10, low=1, high=1_000_000)
    """Fewest patients that the site trains on; with fewer it declines. In simulation 1."""
    min_patients: int = option(5, low=1, high=1_000_000)
    """Fewest patients behind any Dice or distance that leaves, so also the fewest to validate and
    to test on; with fewer the site declines. In simulation 1."""
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
    privacy: PrivacySettings = field(default_factory=PrivacySettings)

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
            ("site", self.name or None, is_name(self.name) or (self.simulated and not self.name),
             f"the name of this site's data, {A_NAME}"),
            ("serves", wrong[0], bool(self.served()) and self.served() <= set(requests),
             f"some of {', '.join(requests)}"),
            *(("approved", word, bool(messages.SHA256.fullmatch(word)), "hashes and commas")
              for word in sorted(self.listed())),
        ]  # fmt: skip

    @property
    def simulated(self) -> bool:
        """Whether the node is part of a simulation, and so belongs to the run's own user."""
        return self.partition is not None

    def cohorts(self) -> Cohorts:
        """Return the fewest patients of each split; a site without ``test`` tests on nobody."""
        if self.simulated:
            return Cohorts()
        tested = self.min_patients if "test" in self.served() else 0
        return Cohorts(self.min_train_patients, self.min_patients, tested)

    def served(self) -> set[str]:
        """Return the words in ``serves``."""
        return _words(self.serves)

    def listed(self) -> set[str]:
        """Return the hashes in ``approved``."""
        return _words(self.approved.lower())

    def audit_name(self) -> str:
        """Return the audit log's file name where ``audit-log`` is not set."""
        return f"audit-{cut_name(self.name.replace('/', '-'))}.jsonl"

    def audit_path(self) -> Path:
        """Return the path of the audit log."""
        log = Path(self.audit_log) if self.audit_log else Path(self.cache_dir) / self.audit_name()
        return log.expanduser()

    def applied(self, config: RunConfig) -> RunConfig:
        """Return the configuration that a site works by: the run's, with the site's own settings.

        Where it is deployed, all keys that affect only the server have their defaults, so that a
        run that changes them does not make the site read its data again.
        """
        if self.simulated:
            return config
        data = replace(
            config.data,
            data_dir=self.data_dir,
            cache_dir=self.cache_dir,
            split_by=self.split_by,
            affine_axes=self.affine_axes,
            split_seed=self.split_seed,
        )
        return RunConfig(
            config.model,
            data,
            replace(config.train, threads=self.threads, device=self.device),
            config.method,
            seed=config.seed,
            base_model=self.base_model,
            base_sha256=config.base_sha256,
        )

    def check(self, kind: str, config: RunConfig, rank: int) -> None:
        """Check a request of Flower's message type ``kind`` against the site's limits.

        Raises
        ------
        LimitError
            The site does not serve the request, or the request asks for too much.
        """
        for key, value in config.data.simulated_only().items():
            if value and not self.simulated:
                raise LimitError(f"{key} is set, which is for simulations only")
        request = REQUESTS.get(kind)
        if request is not None and request not in self.served():
            raise LimitError(f"this site does not serve {request}")
        if request != "train":
            return
        rates = config.method.rates_start or config.method.rates_own
        if rates and "validate" not in self.served():
            raise LimitError("this site does not serve validate")
        if config.method.trains == "weights" and not (self.whole_weights or self.simulated):
            raise LimitError("all weights are asked, this site sends adapters alone")
        if self.max_rank and rank > self.max_rank:
            raise LimitError(f"rank {rank} is asked, this site allows {self.max_rank}")
        epochs = config.train.local_epochs
        if self.max_local_epochs and epochs > self.max_local_epochs:
            raise LimitError(f"{epochs} epochs are asked, this site allows {self.max_local_epochs}")


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",") if word.strip()}
