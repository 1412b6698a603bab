"""Approval of runs: a site answers nothing of a run until its hospital has approved the run.

What is approved is a run's id together with everything that changes what leaves the site. A run
that is not approved is kept in the site's cache folder and printed, and the server gets one
sentence.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import metadata
from math import prod
from pathlib import Path

from client_app.settings import LimitError, SiteSettings
from common import lora, text
from common.config import RunConfig
from common.console import console
from common.errors import UserError
from common.files import parse_json, write_text
from common.messages import NOT_APPROVED, SERVER, Request
from common.method import Half
from common.model import file_sha256, skeleton, weight_shapes
from common.options import Value, option, parse
from common.ranks import highest_rank

PACKAGE = "rate-my-lora"
APPROVED, WITHDRAWN, PENDING = "approved", "withdrawn", "waits"
COVERED = ("result", "length", "output")
"""What the keys affect that an approval covers; see ``common.options.AFFECTS``."""
MOST_PENDING = 100
"""Runs that are kept for a decision; the oldest is forgotten when one more asks."""
MOST_SHOWN = 1000
"""Runs that a process prints: a server that asks with ever new ones fills no log of a service."""
LONGEST_VALUE = 1000
"""Most characters of a key's value that are printed; a list of names may be far longer."""
CODE = re.compile(r"[0-9a-f]{16}")

_shown: set[str] = set()  # codes of the runs that this process printed


class NotApprovedError(LimitError):
    """The site, whose name is ``site``, has not approved the run."""

    def __init__(self, site: str) -> None:
        super().__init__(NOT_APPROVED)
        self.site = site


@dataclass(frozen=True)
class Proposal:
    """A run that asks a site to take part."""

    run: str = option()
    """The run's id, which the server chose and keeps when it resumes the run."""
    keys: Mapping[str, Value] = option()
    """All keys that an approval covers; ``base-sha256`` is the base that the run would use."""
    version: str = option()
    """Version of this app."""

    @classmethod
    def of(cls, request: Request, base_sha256: str) -> "Proposal":
        """Return what a request's run asks for; ``base_sha256`` is that of the site's own base."""
        if not text.is_name(request.run_id):
            raise UserError(f"{SERVER}: run-id: expected up to {text.NAME_LENGTH} letters")
        flat = request.config.to_flat()
        keys = {key: flat[key] for key in sorted(RunConfig.keys_that_affect(*COVERED))}
        keys["base-sha256"] = str(keys["base-sha256"]).lower() or base_sha256
        return cls(request.run_id, keys, metadata.version(PACKAGE))

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the keys and the version: the same for every run with this configuration."""
        whole = {"keys": self.keys, "version": self.version}
        return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()

    @cached_property
    def code(self) -> str:
        """The word that approves this run with this configuration and nothing else."""
        return hashlib.sha256(f"{self.hash} {self.run}".encode()).hexdigest()[:16]

    def config(self) -> RunConfig:
        """Return the run's configuration, with the defaults for keys that are not covered."""
        return RunConfig.from_flat(self.keys, "proposal")


class Approvals:
    """The runs that asked a site, and what the hospital decided, in files of its cache folder."""

    def __init__(self, settings: SiteSettings) -> None:
        self.settings = settings
        site = hashlib.sha256(settings.name.encode()).hexdigest()[:16]
        self.folder = Path(settings.cache_dir).expanduser() / "approvals" / site

    def require(self, proposal: Proposal) -> None:
        """Return where the run is approved; otherwise keep and print it.

        Raises
        ------
        NotApprovedError
            The run is not approved.
        """
        decided = self.decision(proposal.code)
        if decided == PENDING:
            self._keep(proposal)
            if self._beforehand(proposal):
                self._decide(proposal.code, APPROVED)
                decided = APPROVED
        if proposal.code not in _shown and len(_shown) < MOST_SHOWN:
            _shown.add(proposal.code)
            console.print("\n".join(self.lines(proposal, decided)))
            if len(_shown) == MOST_SHOWN:
                console.print("many runs ask; from now on 'rate-my-lora approve' alone lists them")
        if decided != APPROVED:
            raise NotApprovedError(self.settings.name)

    def decision(self, code: str) -> str:
        """Return ``approved``, ``withdrawn`` or, where nothing is decided, ``waits``."""
        try:
            found = self._decided(code).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return PENDING
        return found if found in (APPROVED, WITHDRAWN) else PENDING

    def approve(self, code: str) -> None:
        """Approve a run; raises UserError where no such run asked."""
        self._decide(self._known(code), APPROVED)

    def withdraw(self, code: str) -> None:
        """Withdraw an approval, also during the run; raises UserError where no such run asked."""
        self._decide(self._known(code), WITHDRAWN)

    def all(self) -> list[Proposal]:
        """Return the runs of the installed version that asked, the first first."""
        ordered = sorted(self._read(), key=lambda found: found[0])
        return [known for _, known in ordered if known.version == metadata.version(PACKAGE)]

    def lines(self, proposal: Proposal, decided: str = "") -> list[str]:
        """Return what a run asks for, in words."""
        decided = decided or self.decision(proposal.code)
        words = f"rate-my-lora approve {proposal.code}"
        then = {
            APPROVED: f"approved; to withdraw: {words} --withdraw",
            WITHDRAWN: f"withdrawn; to approve it again: {words}",
            PENDING: f"waits; to approve it: {words}",
        }[decided]
        rows = {"state": then, "configuration": f"SHA-256 {proposal.hash}", **_asks(proposal)}
        return [f"run {proposal.run}", *(f"  {key:<16}{value}" for key, value in rows.items())]

    def _beforehand(self, proposal: Proposal) -> bool:
        """Whether the site's file approves the run: the first of a listed hash, or of a run id.

        Another run of a listed hash would get the answers of the first once more, and so would a
        run that changes its configuration.
        """
        match self.settings.approve:
            case "any":
                same = [known.code for _, known in self._read() if known.run == proposal.run]
            case "listed" if proposal.hash in self.settings.listed():
                same = [known.code for _, known in self._read() if known.hash == proposal.hash]
            case _:
                return False
        return all(self.decision(code) == PENDING for code in same)

    def _keep(self, proposal: Proposal) -> None:
        path = self._asked(proposal.code)
        if path.is_file():
            return
        pending = [
            (since, known.code)
            for since, known in self._read()
            if self.decision(known.code) == PENDING
        ]
        for _, code in sorted(pending)[: max(0, len(pending) + 1 - MOST_PENDING)]:
            self._asked(code).unlink(missing_ok=True)
        flat = {"run": proposal.run, "keys": dict(proposal.keys), "version": proposal.version}
        write_text(path, json.dumps(flat, indent=1) + "\n")

    def _decide(self, code: str, decided: str) -> None:
        write_text(self._decided(code), f"{decided}\n")

    def _known(self, code: str) -> str:
        if not CODE.fullmatch(code) or not self._asked(code).is_file():
            known = ", ".join(proposal.code for proposal in self.all()) or "none"
            raise UserError(f"no run {code!r} asked this site; those that did: {known}")
        return code

    def _read(self) -> Iterator[tuple[float, Proposal]]:
        """Yield when each run asked first, and the run; damaged files are passed over."""
        for path in self.folder.glob("*.json"):
            try:
                proposal = parse(Proposal, parse_json(path.read_text("utf-8")), str(path))
                since = path.stat().st_mtime
            except (OSError, ValueError, TypeError, UserError):
                continue
            if path == self._asked(proposal.code):
                yield since, proposal

    def _asked(self, code: str) -> Path:
        return self.folder / f"{code}.json"

    def _decided(self, code: str) -> Path:
        return self.folder / f"{code}.decided"


def require_approval(settings: SiteSettings, request: Request) -> Proposal:
    """Return the approved run that a request belongs to.

    Raises
    ------
    NotApprovedError
        The hospital has not approved the run.
    UserError
        The request names no run, or the site's base file or cache folder cannot be used.
    """
    base = Path(settings.base_model).expanduser()
    proposal = Proposal.of(request, _base_sha256(base, _state_of(base)))
    Approvals(settings).require(proposal)
    return proposal


def upload_bytes(config: RunConfig, rank: int, server_round: int) -> int:
    """Return the bytes of the tensors that a site sends after the training of a round."""
    model = skeleton(config.model.channels())
    if config.method.trains == "weights":
        return 4 * sum(map(prod, weight_shapes(model).values()))
    halves: tuple[Half, ...] = config.method.sent_up(server_round)
    shapes = lora.layer_shapes(model).values()
    return 4 * rank * sum((fan_in if half == "A" else c_out)
                          for c_out, fan_in in shapes for half in halves)  # fmt: skip


def _asks(proposal: Proposal) -> dict[str, str]:
    """Return what a run asks for and what leaves, by topic."""
    config = proposal.config()
    method, federation = config.method, config.federation
    rank = highest_rank(config.model.ranks, config.model.rank)
    trains = "all weights of the network"
    if method.trains == "adapter":
        trains = f"LoRA adapters of rank {rank} at most"
    each = max(upload_bytes(config, rank, number) for number in (1, 2))
    dice = ["Dice of the validation patients"] * method.validates
    dice += ["Dice before training"] * method.rates_start + ["Dice after it"] * method.rates_own
    if method.rating in ("search", "recipient"):
        dice.append("Dice of other merges or adapters, up to max-others")
    default = RunConfig().to_flat()
    other = [
        f"{k} = {text.clean(repr(v), LONGEST_VALUE)}"
        for k, v in proposal.keys.items()
        if v != default[k]
    ]
    return {
        "method": f"trains {trains}; merge {method.merge}, rating {method.rating}",
        "rounds": f"{federation.rounds}, by {federation.min_sites} to {federation.sites} sites",
        "leaves a round": ", ".join([f"{text.size(each)} of tensors", "loss", "seconds", *dice]),
        "leaves in all": f"{text.size(each * federation.rounds)}, numbers of patients and slices, "
        "and once the mean Dice and HD95 of the test patients",
        "other keys": ", ".join(other) or "as by default",
    }  # fmt: skip


def _state_of(path: Path) -> tuple[float, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    return found.st_mtime, found.st_size


@lru_cache(maxsize=4)
def _base_sha256(path: Path, _: tuple[float, int]) -> str:
    return file_sha256(path)
