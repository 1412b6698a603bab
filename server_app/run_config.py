"""The configuration of a run: defaults, a profile's file, a preset, and what the user typed."""

from collections.abc import Mapping
from pathlib import Path

from common.config import RunConfig
from common.errors import UserError
from common.options import Value, read_toml
from strategies.methods import preset_keys

COMPARISON = "compare-"
"""Prefix of the files for ``rate-my-lora compare``, which are not profiles."""
PROFILES = Path(__file__).resolve().parent.parent / "configs"


def resolve_run(fused: Mapping[str, Value], typed: Mapping[str, Value]) -> RunConfig:
    """Return the configuration of a Flower run.

    Parameters
    ----------
    fused
        The app's configuration in ``pyproject.toml``, overridden by what the user typed.
    typed
        What the user typed alone. Flower's context holds only ``fused``, but a profile and a
        preset come in between: pyproject < profile < preset < typed.

    Raises
    ------
    UserError
        A key or value is wrong, or there is no such profile or preset.
    """
    profile = _profile(fused.get("profile", ""))
    preset = preset_keys(fused.get("preset") or profile.get("preset", ""), "run config")
    return RunConfig.from_flat({**fused, **profile, **preset, **typed})


def _profile(name: Value) -> dict[str, Value]:
    if not name:
        return {}
    found = (path.stem for path in PROFILES.glob("*.toml"))
    known = sorted(stem for stem in found if not stem.startswith(COMPARISON))
    if name not in known:
        raise UserError(f"run config: profile: found {name!r}, expected one of {known}")
    return read_toml(PROFILES / f"{name}.toml")


def load_config(path: Path | None) -> RunConfig:
    """Return the configuration of a TOML file, or the defaults where there is none."""
    return RunConfig() if path is None else RunConfig.from_flat(read_toml(path), str(path))
