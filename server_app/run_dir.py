"""The files of a run: what it writes after every round, and what it resumes from."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from logging import WARNING
from pathlib import Path
from typing import Any

import tomli_w
from flwr.common import log

from common import folding
from common.adapter import BASE_NOTE, Adapter, save_adapter, site_file
from common.config import RunConfig
from common.errors import UserError
from common.files import finite, parse_json, remove_parts, write_text
from common.options import read_toml
from common.tensor_files import write_tensors
from common.weights import Parameters
from common.writable import check_folder
from server_app.checkpoint import KEPT, keep_checkpoint, load_newest
from server_app.status import read_status
from strategies.state import RoundRecord, RunState


def settings_of(config: RunConfig) -> str:
    """Return the SHA-256 of the keys that affect the result, by which a waiting run is known."""
    flat, keys = config.to_flat(), RunConfig.keys_that_affect("result")
    return hashlib.sha256(json.dumps([flat[key] for key in keys]).encode()).hexdigest()


class RunDir:
    """The folder of a run.

    ==================== ================================================================
    config.toml          the configuration as resolved
    status.json          where the run stands
    history.jsonl        one line for each round
    checkpoint.…         the state after the last finished round; checkpoint-1 and checkpoint-2 of
                         the two rounds before, in case it is damaged
    summary.json         test scores of base and result at every site, traffic
    adapter.safetensors  the result: one adapter, which includes what was folded into the base
    weights.safetensors  the result of a run that trains all weights, as a base file
    personal/            SITE.safetensors: each site's own result, of methods that end with one;
                         in a simulation only
    rounds.png           validation, penalties and traffic over the rounds
    updates/             round-NNN/SITE.safetensors: the adapters that the sites sent
    tensorboard/         event files
    .run.lock            locked while a run writes to the folder
    ==================== ================================================================

    Parameters
    ----------
    path
        The folder; :meth:`begin` makes it if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.history = path / "history.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.checkpoints = [self.checkpoint] + [
            path / f"checkpoint-{age}.safetensors" for age in range(1, KEPT)
        ]  # the newest first
        self.adapter = path / "adapter.safetensors"
        self.weights = path / "weights.safetensors"
        self.personal = path / "personal"
        self.summary = path / "summary.json"
        self.plot = path / "rounds.png"
        self.status = path / "status.json"
        self.updates = path / "updates"
        self.tensorboard = path / "tensorboard"
        self._new: RunConfig | None = None  # of a new run until it has something to save

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder and keep other runs out of it while the block goes on.

        Raises
        ------
        UserError
            Another run writes to the folder, or it cannot be made.
        """
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context((self.path / ".run.lock").open("a+", encoding="utf-8"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"{self.path}: another run writes to this folder; wait for its end, or give "
                    "this one a run-dir of its own"
                ) from None
            except OSError as error:
                raise UserError(f"{self.path}: cannot be locked ({error.strerror})") from None
            yield

    def begin(self, config: RunConfig, initial: RunState) -> RunState:
        """Return the state to start from.

        A new run leaves what an earlier one wrote until it has something to save itself, so that
        nothing is lost where it cannot start. A resumed run goes on from the newest sound
        checkpoint, or begins anew if there is none.

        Raises
        ------
        UserError
            The folder cannot be written, every checkpoint is damaged, or it belongs to a run with
            other settings.
        """
        check_folder(self.path)
        for folder in (self.path, self.personal):
            remove_parts(folder)
        self._new = None
        waited = self._waited(config) if config.resume else ""
        if config.resume and not waited and any(path.is_file() for path in self.checkpoints):
            state = self._load(config)
            write_text(self.config, tomli_w.dumps(config.to_flat()))
            return state
        self._new = config
        initial.run_id = waited or initial.run_id
        return initial

    @property
    def saved(self) -> bool:
        """Whether the files in the folder are this run's and not those of an earlier one."""
        return self._new is None

    def _open(self) -> None:
        """Replace an earlier run's files as soon as this one has something to save."""
        if self._new is not None:
            self._clear()
            write_text(self.config, tomli_w.dumps(self._new.to_flat()))
            self._new = None

    def save_round(self, state: RunState, record: RoundRecord) -> None:
        """Append the round to the history, then replace the checkpoint.

        A crash between the two leaves one line too many, which :meth:`begin` removes.

        Raises
        ------
        UserError
            A file cannot be written.
        """
        self._open()
        try:
            with self.history.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite(record.to_json())) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UserError(f"{self.history}: cannot be written ({error.strerror})") from None
        keep_checkpoint(state, self.checkpoints)

    def save_updates(
        self, server_round: int, updates: Mapping[str, Parameters], *, keep: str
    ) -> None:
        """Keep what each site sent in a round.

        ``keep`` says which rounds stay on disk: ``none``, the ``last`` or ``all``.
        """
        self._open()
        if keep == "none" or not updates:
            return
        folder = self.updates_of(server_round)
        for site, update in updates.items():
            notes = {"site": site, "round": str(server_round)}
            _save(update, folder / site_file(site), notes)
        if keep == "last":
            for other in set(self.updates.glob("round-*")) - {folder}:
                shutil.rmtree(other)

    def updates_of(self, server_round: int) -> Path:
        """Return the folder of what the sites sent in a round."""
        return self.updates / f"round-{server_round:03d}"

    def save_result(self, state: RunState, scale: float, base_sha256: str) -> None:
        """Write the run's result: weights, or one adapter that includes what was folded."""
        self._open()
        result = state.parameters
        if isinstance(result, Adapter) and state.folded is not None:
            result = folding.as_adapter(state.folded, result, scale)
        path = self.adapter if isinstance(result, Adapter) else self.weights
        _save(result, path, {BASE_NOTE: base_sha256})

    def read_config(self) -> RunConfig:
        """Return the configuration that the run began with."""
        return RunConfig.from_flat(read_toml(self.config), str(self.config))

    def read_history(self) -> list[dict[str, Any]]:
        """Return the rounds so far; round 0, the base model's validation, comes first.

        A last line that a crash cut off is left out.

        Raises
        ------
        UserError
            The file cannot be read, or a line is damaged.
        """
        if not self.history.is_file():
            return []
        try:
            lines = self.history.read_bytes().split(b"\n")[:-1]
        except OSError as error:
            raise UserError(f"{self.history}: cannot be read ({error.strerror})") from None
        rounds = []
        for number, line in enumerate(lines, start=1):
            try:
                found = parse_json(line)
            except ValueError as error:
                where = f"{self.history}: line {number}"
                raise UserError(f"{where} is damaged, not JSON ({error})") from None
            if not isinstance(found, dict) or not isinstance(found.get("round"), int):
                raise UserError(f"{self.history}: line {number} does not describe a round")
            rounds.append(found)
        return rounds

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        self._open()
        write_text(self.summary, json.dumps(finite(summary), indent=2) + "\n")

    def _waited(self, config: RunConfig) -> str:
        """Return the id of a run with these settings that saved nothing yet, or "".

        The sites may have approved it while it waited for them.
        """
        try:
            status = read_status(self.status)
        except UserError:
            return ""
        same = status and not status.saved and status.settings == settings_of(config)
        return status.run if status and same else ""

    def _load(self, config: RunConfig) -> RunState:
        before = self.read_config().to_flat()
        now = config.to_flat()
        for key in RunConfig.keys_that_affect("result"):
            if before[key] != now[key]:
                raise UserError(
                    f"{self.path}: cannot resume, {key} was {before[key]!r} and is {now[key]!r} now"
                )
        state, damage = load_newest(self.checkpoints)
        for text in damage:
            log(WARNING, "%s; going on after round %d", text, state.server_round)
        kept = [line for line in self.read_history() if line["round"] <= state.server_round]
        write_text(self.history, "".join(json.dumps(line) + "\n" for line in kept))
        return state

    def _clear(self) -> None:
        """Remove the files of an earlier run, and no others."""
        for folder in (self.updates, self.tensorboard, self.personal):
            shutil.rmtree(folder, ignore_errors=True)
        files = (self.config, self.history, self.adapter, self.weights, self.summary, self.plot)
        for path in (*files, *self.checkpoints):
            path.unlink(missing_ok=True)


def _save(parameters: Parameters, path: Path, notes: Mapping[str, str]) -> None:
    if isinstance(parameters, Adapter):
        save_adapter(parameters, path, notes)
    else:
        write_tensors(path, parameters.tensors(), notes)
