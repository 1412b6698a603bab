"""What a run leaves on disk, readable while it goes on, and what it resumes from."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import tomli_w

from common.adapter import Adapter, load_adapter, save_adapter
from common.config import RunConfig
from common.errors import UserError
from common.files import finite, write_text
from server_app.settings import read_toml
from strategies.state import RoundRecord, RunState

MAY_CHANGE = frozenset(
    (
        *("profile", "resume", "run-dir", "cache-dir", "data-dir", "base-model"),
        *("rounds", "sites", "min-sites", "wait-s", "round-timeout-s", "device", "threads"),
        *("keep-updates", "tensorboard", "local-validation"),
    )
)
"""Keys that a resumed run may have otherwise: they do not touch the rounds that are done."""


class RunDir:
    """The folder of a run.

    ==================== ================================================================
    config.toml          the configuration as resolved
    status.json          where the run stands
    history.jsonl        a line a round
    checkpoint.…         the state after the last finished round
    summary.json         base and result at every site, traffic
    adapter.safetensors  the result
    rounds.png           validation, weights and traffic over the rounds
    updates/             round-NNN/SITE.safetensors: the adapters that the sites sent
    tensorboard/         event files
    ==================== ================================================================

    Parameters
    ----------
    path
        The folder; made where it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.history = path / "history.jsonl"
        self.checkpoint = path / "checkpoint.safetensors"
        self.adapter = path / "adapter.safetensors"
        self.summary = path / "summary.json"
        self.plot = path / "rounds.png"
        self.status = path / "status.json"
        self.updates = path / "updates"
        self.tensorboard = path / "tensorboard"

    def begin(self, config: RunConfig, initial: RunState) -> RunState:
        """Prepare the folder and return the state to start from.

        A new run clears what another left here; a resumed one goes on from its checkpoint, and
        begins anew where there is none.

        Raises
        ------
        UserError
            The checkpoint belongs to a run with other settings, or the folder holds other things.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be made ({error.strerror})") from None
        state = self._load(config) if config.resume and self.checkpoint.is_file() else None
        if state is None:
            self._clear()
            state = initial
        write_text(self.config, tomli_w.dumps(config.to_flat()))
        return state

    def save_round(self, state: RunState, record: RoundRecord) -> None:
        """Append the round to the history, then replace the checkpoint.

        A crash between the two leaves a line too many, which :meth:`begin` drops.
        """
        with self.history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record.to_json())) + "\n")
        notes = {
            "round": str(state.server_round),
            "previous": json.dumps(state.previous),
            "ranks": json.dumps(state.ranks),
        }
        save_adapter(state.adapter, self.checkpoint, notes)

    def save_updates(self, server_round: int, updates: Mapping[str, Adapter], *, keep: str) -> None:
        """Keep the adapters that the sites sent in a round, of this round alone or of all.

        Parameters
        ----------
        server_round
            The round.
        updates
            By site. Names come from other machines, so they are percent-encoded in file names.
        keep
            ``none``, ``last`` or ``all``.
        """
        if keep == "none" or not updates:
            return
        folder = self.updates / f"round-{server_round:03d}"
        for site, adapter in updates.items():
            notes = {"site": site, "round": str(server_round)}
            save_adapter(adapter, folder / f"{quote(site, safe='')}.safetensors", notes)
        if keep == "last":
            for other in self.updates.glob("round-*"):
                if other != folder:
                    shutil.rmtree(other)

    def read_history(self) -> list[dict[str, Any]]:
        """Return the rounds so far, round 0 (the base model's validation) first.

        A last line without its end, cut off by a crash, is not one.
        """
        if not self.history.is_file():
            return []
        lines = self.history.read_text("utf-8").splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``."""
        write_text(self.summary, json.dumps(finite(summary), indent=2) + "\n")

    def _load(self, config: RunConfig) -> RunState:
        before = RunConfig.from_flat(read_toml(self.config), str(self.config)).to_flat()
        for key, value in config.to_flat().items():
            if key not in MAY_CHANGE and before[key] != value:
                raise UserError(
                    f"{self.path}: cannot resume, {key} was {before[key]!r} and is {value!r} now"
                )
        adapter, notes = load_adapter(self.checkpoint)
        state = RunState(
            adapter,
            int(notes["round"]),
            json.loads(notes["previous"]),
            json.loads(notes["ranks"]),
        )
        kept = [line for line in self.read_history() if line["round"] <= state.server_round]
        write_text(self.history, "".join(json.dumps(line) + "\n" for line in kept))
        return state

    def _clear(self) -> None:
        """Remove the files of an earlier run, and only those."""
        for path in vars(self).values():
            if path in (self.updates, self.tensorboard):
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.path:
                path.unlink(missing_ok=True)
