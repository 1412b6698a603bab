"""The state of a run as one file after every round; those of the last rounds are kept.

A checkpoint of most methods holds just an adapter, and can be read as an adapter file. What else a
method carries on has names that begin with ``KIND/``.
"""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from common.adapter import Adapter
from common.errors import UserError
from common.files import parse_json, replace_file
from common.tensor_files import read_tensors, write_tensors
from common.weights import Parameters, Weights
from strategies.state import RunState

KEPT = 3
"""How many checkpoints a run keeps: an older one is resumed from where the newest is damaged."""
WEIGHTS, FOLD, FOLDED, PERSONAL = "weights", "fold", "folded", "personal"


def save_checkpoint(state: RunState, path: Path) -> None:
    """Write a state to a checkpoint file."""
    parameters = state.parameters
    whole = isinstance(parameters, Weights)
    tensors = parameters.tensors()
    if whole:
        tensors = _named(WEIGHTS, tensors)
    tensors |= _named(FOLDED, state.folded or {})
    tensors |= _named(FOLD, state.fold.tensors() if state.fold else {})
    sites = sorted(state.personal)
    for number, site in enumerate(sites):
        tensors |= _named(f"{PERSONAL}/{number}", state.personal[site].tensors())
    notes = {
        "scale": json.dumps(1.0 if isinstance(parameters, Weights) else parameters.scale),
        "round": str(state.server_round),
        "previous": json.dumps(state.previous),
        "ranks": json.dumps(state.ranks),
        "rating": json.dumps(state.rating),
        "held": json.dumps(state.held),
        "run-id": state.run_id,
        "owners": json.dumps(state.owners),
        "folds": str(state.folds),
        "trains": WEIGHTS if whole else "adapter",
        "personal": json.dumps(sites),
    }
    write_tensors(path, tensors, notes)


def keep_checkpoint(state: RunState, paths: Sequence[Path]) -> None:
    """Write a state to the first of the paths, and keep those of the rounds before in the others.

    The first path holds a whole checkpoint at any moment.
    """
    newest, *others = paths
    for newer, older in zip(others[-2::-1], others[:0:-1], strict=True):
        with suppress(FileNotFoundError):
            newer.replace(older)
    if newest.is_file():
        with replace_file(others[0]) as temporary:
            shutil.copyfile(newest, temporary)
    save_checkpoint(state, newest)


def load_newest(paths: Iterable[Path]) -> tuple[RunState, list[str]]:
    """Return the state of the first sound checkpoint, and what is wrong with those before it.

    Raises
    ------
    UserError
        No checkpoint is sound.
    """
    damage: list[str] = []
    for path in filter(Path.is_file, paths):
        try:
            return load_checkpoint(path), damage
        except UserError as error:
            damage.append(str(error))
    raise UserError("; ".join(damage))


def load_checkpoint(path: Path) -> RunState:
    """Read a state from a checkpoint file.

    Raises
    ------
    UserError
        The file is missing, damaged or not a checkpoint.
    """
    tensors, notes = read_tensors(path, "a checkpoint", sealed=True)
    try:
        groups = _grouped(tensors)
        scale = float(notes["scale"])
        start: Parameters = Weights(groups.get(WEIGHTS, {}))
        if notes["trains"] != WEIGHTS:
            start = Adapter.from_tensors(groups[""], scale)
        fold, folded = groups.get(FOLD), groups.get(FOLDED)
        sites = enumerate(parse_json(notes["personal"]))
        return RunState(
            start,
            int(notes["round"]),
            parse_json(notes["previous"]),
            parse_json(notes["ranks"]),
            Adapter.from_tensors(fold, scale) if fold else None,
            folded,
            {site: Adapter.from_tensors(groups[f"{PERSONAL}/{n}"], scale) for n, site in sites},
            parse_json(notes["rating"]),
            parse_json(notes["held"]),
            notes["run-id"],
            parse_json(notes["owners"]),
            int(notes["folds"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a checkpoint ({error})") from None


def _named(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": value for name, value in tensors.items()}


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return tensors by kind, which is "" for the adapter; names of layers have no slash."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.rpartition("/")
        groups.setdefault(kind, {})[name] = value
    return groups
