"""The run configuration of a run: defaults, a profile's file, and what the user typed."""

import tomllib
from collections.abc import Mapping
from pathlib import Path

from common.config import RunConfig
from common.errors import UserError
from common.options import Value

PROFILES = Path(__file__).resolve().parent.parent / "configs"


def resolve_run(fused: Mapping[str, Value], typed: Mapping[str, Value]) -> RunConfig:
    """Return the configuration of a Flower run.

    Parameters
    ----------
    fused
        The app's configuration in ``pyproject.toml`` with what the user typed over it.
    typed
        What the user typed alone. Flower does not tell the two apart in the context, but a
        profile lies between them: pyproject < profile < typed.

    Raises
    ------
    UserError
        A key or value is wrong, or there is no such profile.
    """
    return RunConfig.from_flat({**fused, **_profile(fused.get("profile", "")), **typed})


def _profile(name: Value) -> dict[str, Value]:
    if not name:
        return {}
    known = sorted(path.stem for path in PROFILES.glob("*.toml"))
    if name not in known:
        raise UserError(f"run config: profile: found {name!r}, expected one of {known}")
    return read_toml(PROFILES / f"{name}.toml")


def load_config(path: Path | None) -> RunConfig:
    """Return the configuration of a TOML file, or the defaults where there is none."""
    return RunConfig() if path is None else RunConfig.from_flat(read_toml(path), str(path))


def read_toml(path: Path) -> dict[str, Value]:
    """Read a TOML file of flat keys.

    Raises
    ------
    UserError
        The file is missing or not TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not TOML ({error})") from None
