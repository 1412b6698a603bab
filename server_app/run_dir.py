"""The files of a run: what it writes after every round, and what it resumes from."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from common import folding
from common.adapter import BASE_NOTE, Adapter, save_adapter, site_file
from common.config import RunConfig
from common.errors import UserError
from common.files import finite, write_text
from common.options import read_toml
from common.tensor_files import write_tensors
from common.weights import Parameters
from server_app.checkpoint import load_checkpoint, save_checkpoint
from server_app.status import read_status
from strategies.state import RoundRecord, RunState


class RunDir:
    """The folder of a run.

    ==================== ================================================================
    config.toml          the configuration as resolved
    status.json          where the run stands
    history.jsonl        one line for each round
    checkpoint.…         the state after the last finished round
    summary.json         test scores of base and result at every site, traffic
    adapter.safetensors  the result: one adapter, which includes what was folded into the base
    weights.safetensors  the result of a run that trains all weights, as a base file
    personal/            SITE.safetensors: each site's own result, of methods that end with one;
                         in a simulation only
    rounds.png           validation, penalties and traffic over the rounds
    updates/             round-NNN/SITE.safetensors: the adapters that the sites sent
    tensorboard/         event files
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
        self.adapter = path / "adapter.safetensors"
        self.weights = path / "weights.safetensors"
        self.personal = path / "personal"
        self.summary = path / "summary.json"
        self.plot = path / "rounds.png"
        self.status = path / "status.json"
        self.updates = path / "updates"
        self.tensorboard = path / "tensorboard"

    def begin(self, config: RunConfig, initial: RunState) -> RunState:
        """Prepare the folder and return the state to start from.

        A new run removes the files of another run in the folder. A resumed run goes on from its
        checkpoint, or begins anew if there is none.

        Raises
        ------
        UserError
            The folder cannot be made, the checkpoint is broken, or it belongs to a run with other
            settings.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made ({error.strerror})") from None
        state = self._load(config) if config.resume and self.checkpoint.is_file() else None
        if state is None:
            if config.resume:  # the sites may have approved it while it waited for them
                initial.run_id = self._run_id(config) or initial.run_id
            self._clear()
            state = initial
        write_text(self.config, tomli_w.dumps(config.to_flat()))
        return state

    def save_round(self, state: RunState, record: RoundRecord) -> None:
        """Append the round to the history, then replace the checkpoint.

        A crash between the two leaves one line too many, which :meth:`begin` removes.
        """
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record.to_json())) + "\n")
        save_checkpoint(state, self.checkpoint)

    def save_updates(
        self, server_round: int, updates: Mapping[str, Parameters], *, keep: str
    ) -> None:
        """Keep what each site sent in a round.

        ``keep`` says which rounds stay on disk: ``none``, the ``last`` or ``all``.
        """
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
        """
        if not self.history.is_file():
            return []
        lines = self.history.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_text(self.summary, json.dumps(finite(summary), indent=2) + "\n")

    def _run_id(self, config: RunConfig) -> str:
        """Return the id of the run that was here if it had the same settings, else ""."""
        try:
            before, status = self.read_config().to_flat(), read_status(self.status)
        except UserError:
            return ""
        now, keys = config.to_flat(), RunConfig.keys_that_affect("result")
        return status.run if status and all(before[key] == now[key] for key in keys) else ""

    def _load(self, config: RunConfig) -> RunState:
        before = self.read_config().to_flat()
        now = config.to_flat()
        for key in RunConfig.keys_that_affect("result"):
            if before[key] != now[key]:
                raise UserError(
                    f"{self.path}: cannot resume, {key} was {before[key]!r} and is {now[key]!r} now"
                )
        state = load_checkpoint(self.checkpoint)
        kept = [line for line in self.read_history() if line["round"] <= state.server_round]
        write_text(self.history, "".join(json.dumps(line) + "\n" for line in kept))
        return state

    def _clear(self) -> None:
        """Remove the files of an earlier run, and no others."""
        for path in vars(self).values():
            if path in (self.updates, self.tensorboard, self.personal):
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.path:
                path.unlink(missing_ok=True)


def _save(parameters: Parameters, path: Path, notes: Mapping[str, str]) -> None:
    if isinstance(parameters, Adapter):
        save_adapter(parameters, path, notes)
    else:
        write_tensors(path, parameters.tensors(), notes)
