"""The ledger of a run at a site: every question is answered once, in order, and within a budget.

The identical request gets the stored reply, byte for byte, so that a run can be resumed. Another
request for a round that was answered, or for an earlier one, is refused. The ledger stays on disk
for good, the replies of the last ``KEPT_ROUNDS`` rounds in the folder of the run's memory.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common import Array

from client_app.approval import Proposal, require_approval, upload_bytes
from client_app.memory import Memory, memory_folder
from client_app.settings import LimitError, SiteSettings
from common import messages, records
from common.config import RunConfig
from common.errors import UserError
from common.files import parse_json, write_text
from common.messages import ANSWERED, ASKED, Failure, Request, Train, Validate
from common.options import option, parse, to_flat
from common.tensor_files import read_tensors, write_tensors

PHASES = (messages.TRAIN, messages.VALIDATE, messages.TEST)
"""The requests of a round in their order."""
WORDS = dict(zip(PHASES, ("train", "validate", "test"), strict=True))
KEPT_ROUNDS = 4
"""Rounds whose replies are kept: as many as a run that is resumed may repeat."""
MIB = 2**20
RECORDS = {"arrays": ArrayRecord, "metrics": MetricRecord, "config": ConfigRecord}


@dataclass
class Book:
    """What a site answered in a run."""

    messages: int = option(0, low=0)
    """Requests of the run so far, repeated ones too."""
    bytes_out: int = option(0, low=0)
    """Bytes of the tensors that left in new replies."""
    server_round: int = option(-1, low=-1)
    """The round of the last answered request; -1 before the first. ``phase`` likewise."""
    phase: int = option(0, low=0, high=len(PHASES))
    """The place of the last request in ``PHASES``."""
    replies: Mapping[str, list[str]] = field(default_factory=dict)
    """By name of a reply's file, the digest of the request and Flower's id of the reply."""


class Ledger:
    """The ledger of one run at one site.

    Parameters
    ----------
    settings
        The site's settings.
    proposal
        The approved run.
    memory
        What the site keeps of the run; the replies are in its folder.
    """

    def __init__(self, settings: SiteSettings, proposal: Proposal, memory: Memory) -> None:
        self.settings = settings
        self.proposal = proposal
        self.memory = memory
        folder = Path(settings.cache_dir).expanduser() / "ledger"
        self.path = folder / f"{memory.folder.name}.json"
        self.book = self._read()
        self.repeated = False  # whether the reply to the present request is a stored one

    def answered(self, request: Request) -> RecordDict | None:
        """Count a request; return the stored reply if it was answered before, else None.

        Raises
        ------
        LimitError
            The request is out of order, asks for what the run does not ask for, or exceeds the
            run's budget.
        UserError
            The ledger, or the stored reply, is damaged or cannot be written.
        """
        self._within(self.book.messages + 1, "messages", self.settings.max_messages)
        self.book.messages += 1
        self._write()
        self._within(request.config.federation.rounds, "rounds", self.settings.max_rounds)
        self._within(len(request.others), "adapters to rate", self.settings.max_others)
        name = _name(request)
        if name in self.book.replies and self.book.replies[name][0] == self._digest(request):
            self.repeated = True
            return self._load(name)
        if request.kind in PHASES:
            self._in_order(request)
        if isinstance(request, Train):
            size = upload_bytes(request.config, request.site_rank, request.server_round)
            self._within_mib(self.book.bytes_out + size)
        return None

    def keep(self, request: Request, reply: RecordDict) -> None:
        """Store a new reply that is about to leave; return when it is on the disk.

        A failure is not stored, as it answers nothing.

        Raises
        ------
        LimitError
            The reply exceeds the run's budget.
        UserError
            It cannot be written; then it must not leave.
        """
        if self.repeated or Failure.found_in(reply) is not None:
            return
        size = sum(map(records.payload_bytes, reply.array_records.values()))
        self._within_mib(self.book.bytes_out + size)
        name, book = _name(request), self.book
        self.memory.begin()
        save_reply(self.memory.folder / name, reply)
        first = request.server_round - KEPT_ROUNDS + 1
        gone = {n for n in book.replies if request.kind in PHASES and 0 < _round(n) < first}
        kept = {n: found for n, found in book.replies.items() if n not in gone}
        book.replies = {**kept, name: [self._digest(request), reply.object_id]}
        book.bytes_out += size
        if request.kind in PHASES:
            book.server_round, book.phase = request.server_round, PHASES.index(request.kind)
        self._write()
        for old in gone:
            (self.memory.folder / old).unlink(missing_ok=True)

    def _in_order(self, request: Request) -> None:
        """Check that the run asks for this request, and that no later one was answered."""
        number, method = request.server_round, request.config.method
        rounds = request.config.federation.rounds
        rates_others = method.rating in ("search", "recipient")
        asked = {
            messages.TRAIN: 1 <= number <= rounds,
            messages.VALIDATE: 0 <= number <= rounds and method.validates,
            messages.TEST: number == rounds,
        }[request.kind]
        if isinstance(request, Validate) and number == 0:  # the base alone
            asked = asked and request.adapter is request.fold is request.folded is None
        if not asked or (request.others and not (rates_others and number)):
            raise LimitError(f"this run does not ask for a {WORDS[request.kind]} of round {number}")
        if (number, PHASES.index(request.kind)) <= (self.book.server_round, self.book.phase):
            raise LimitError(ANSWERED)

    def _within_mib(self, size: int) -> None:
        self._within(-(-size // MIB), "MiB", self.settings.max_mib_out)

    def _within(self, found: int, what: str, limit: int) -> None:
        if found > limit:
            raise LimitError(ASKED.format(found, what, limit))

    def _digest(self, request: Request) -> str:
        """Return the SHA-256 of all in a request that changes the reply.

        A resumed run may have other keys that do not affect the result, and more rounds.
        """
        affects = {key: self.proposal.keys[key] for key in RunConfig.keys_that_affect("result")}
        whole: list[object] = [request.kind, self.proposal.version, affects]
        if request.kind in PHASES:  # a site describes itself once in a run
            flat, arrays = to_flat(request), request.to_record().array_records
            whole.append({key: flat[key] for key in messages.REQUIRED})
            whole.append({key: record.object_id for key, record in arrays.items()})
        return _sha256(whole)

    def _load(self, name: str) -> RecordDict:
        path = self.memory.folder / name
        reply = load_reply(path)
        if reply.object_id != self.book.replies[name][1]:
            raise UserError(f"{path}: damaged, so the site cannot repeat its reply")
        return reply

    def _read(self) -> Book:
        try:
            text = self.path.read_text("utf-8")
        except FileNotFoundError:
            return Book()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot read the file ({error})") from None
        try:
            flat, sha256 = parse_json(text)
        except (ValueError, TypeError):
            flat, sha256 = None, ""
        if not isinstance(flat, dict) or _sha256(flat) != sha256:
            raise UserError(f"{self.path}: damaged, so the site answers nothing more of this run")
        return parse(Book, flat, str(self.path))

    def _write(self) -> None:
        flat = to_flat(self.book)
        write_text(self.path, json.dumps([flat, _sha256(flat)], indent=1) + "\n")


def open_ledger(settings: SiteSettings, request: Request) -> Ledger:
    """Return the ledger of the run that a request belongs to, where the run is approved.

    Raises
    ------
    NotApprovedError
        It is not.
    UserError
        The site's base file, its cache folder or the ledger cannot be used.
    """
    proposal = require_approval(settings, request)
    folder = memory_folder(settings.applied(request.config), request.run_id, settings.name)
    return Ledger(settings, proposal, Memory(folder))


def save_reply(path: Path, reply: RecordDict) -> None:
    """Write a reply as a safetensors file: its arrays' bytes, and the rest as JSON."""
    rest, data = [], {}
    for key, record in reply.items():
        kind = next(name for name, kind in RECORDS.items() if isinstance(record, kind))
        items: dict[str, Any] = dict(record)
        if isinstance(record, ArrayRecord):
            for name, array in record.items():
                data[f"{key}/{name}"] = torch.from_numpy(np.frombuffer(array.data, np.uint8).copy())
                items[name] = [array.dtype, list(array.shape), array.stype]
        rest.append([kind, key, items])
    write_tensors(path, data, {"records": json.dumps(rest)})


def load_reply(path: Path) -> RecordDict:
    """Read what :func:`save_reply` wrote; raises UserError where it is missing or damaged."""
    tensors, notes = read_tensors(path, "a reply of this site", sealed=True)
    data = {name: value.numpy().tobytes() for name, value in tensors.items()}
    try:
        rest = parse_json(notes["records"])
        reply = RecordDict()
        for kind, key, items in rest:
            arrays = {
                name: Array(facts[0], tuple(facts[1]), facts[2], data[f"{key}/{name}"])
                for name, facts in items.items()
                if kind == "arrays"
            }
            reply[key] = RECORDS[kind](arrays or items)
    except (LookupError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a reply of this site ({error})") from None
    return reply


def _name(request: Request) -> str:
    number = request.server_round if request.kind in PHASES else 0
    return f"reply-{request.kind}-{number:06d}.safetensors"


def _round(name: str) -> int:
    return int(name.removesuffix(".safetensors").rpartition("-")[2])


def _sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
