"""The state of a run as one file, replaced at once after every round.

Where a run goes on with nothing but an adapter, which is the rule, the file is an adapter file.
What else a method carries on stands beside it under ``KIND/…`` names.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from common.adapter import Adapter
from common.errors import UserError
from common.tensor_files import write_tensors
from common.weights import Parameters, Weights
from strategies.state import RunState

WEIGHTS, FOLD, FOLDED, PERSONAL = "weights", "fold", "folded", "personal"


def save_checkpoint(state: RunState, path: Path) -> None:
    """Write a state."""
    tensors: dict[str, Tensor] = {}
    scale = 1.0
    match state.parameters:
        case Weights(values):
            tensors |= _named(WEIGHTS, values)
        case Adapter() as adapter:
            scale = adapter.scale
            tensors |= adapter.tensors()
    tensors |= _named(FOLDED, state.folded or {})
    tensors |= _named(FOLD, state.fold.tensors() if state.fold else {})
    sites = sorted(state.personal)
    for number, site in enumerate(sites):
        tensors |= _named(f"{PERSONAL}/{number}", state.personal[site].tensors())
    notes = {
        "scale": json.dumps(scale),
        "round": str(state.server_round),
        "previous": json.dumps(state.previous),
        "ranks": json.dumps(state.ranks),
        "rating": json.dumps(state.rating),
        "held": json.dumps(state.held),
        "run-id": state.run_id,
        "trains": WEIGHTS if isinstance(state.parameters, Weights) else "adapter",
        "personal": json.dumps(sites),
    }
    write_tensors(path, tensors, notes)


def load_checkpoint(path: Path) -> RunState:
    """Read a state.

    Raises
    ------
    UserError
        The file is broken or not a checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        groups = _grouped(tensors)
        scale = float(notes["scale"])
        start: Parameters = Weights(groups.get(WEIGHTS, {}))
        if notes["trains"] != WEIGHTS:
            start = Adapter.from_tensors(groups[""], scale)
        fold, folded = groups.get(FOLD), groups.get(FOLDED)
        sites = enumerate(json.loads(notes["personal"]))
        return RunState(
            start,
            int(notes["round"]),
            json.loads(notes["previous"]),
            json.loads(notes["ranks"]),
            Adapter.from_tensors(fold, scale) if fold else None,
            folded,
            {site: Adapter.from_tensors(groups[f"{PERSONAL}/{n}"], scale) for n, site in sites},
            json.loads(notes["rating"]),
            json.loads(notes["held"]),
            notes["run-id"],
        )
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror or error})") from None
    except (SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"{path}: not a checkpoint ({error})") from None


def _named(kind: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{kind}/{name}": value for name, value in tensors.items()}


def _grouped(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return tensors by kind, "" for those of the adapter; layers have no slash in their names."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.rpartition("/")
        groups.setdefault(kind, {})[name] = value
    return groups
