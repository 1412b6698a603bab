"""A comparison as its TOML file describes it, and the runs that follow from it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

from common.config import RunConfig
from common.errors import UserError
from common.options import Value, checked, option, read_toml
from server_app.run_config import resolve_run

Keys = Mapping[str, Value]

BASE = "base"
"""The row of the base model, which every setting and seed has."""
METHOD_KEY = "preset"
"""The run's key for the name of a method."""
OURS = {"seed": "seeds", "run-dir": "--out", "resume": "the command itself"}
"""Keys of a run that the comparison sets, and what says them."""
LONGEST_NAME = 60
"""Of a row or setting, which become names of folders."""
PATHS = ("data-dir", "base-model", "cache-dir")


@dataclass(frozen=True)
class Plan:
    """A comparison.

    Attributes
    ----------
    path
        The TOML file.
    seeds
        Every row runs once for each.
    sites
        How many take part; a row's or setting's ``sites`` takes its place.
    adapt_epochs
        Local epochs of fast adaptation; 0 leaves it out.
    reference
        The row that the others are tested against.
    keys
        Of every run.
    rows, settings
        Keys by name. Without settings there is one that is called "".
    """

    path: Path
    seeds: Sequence[int] = (0,)
    sites: int = option(3, low=1)
    adapt_epochs: int = option(1, low=0)
    reference: str = "rate-my-lora"
    keys: Keys = field(default_factory=dict)
    rows: Mapping[str, Keys] = field(default_factory=dict)
    settings: Mapping[str, Keys] = field(default_factory=dict)

    def jobs(self) -> Iterator["Job"]:
        """Yield all runs: the base model's first, then by seed and row.

        Raises
        ------
        UserError
            A key is unknown or its value is wrong; the row and the setting are named.
        """
        for setting in self.settings:
            for seed in self.seeds:
                for row in (BASE, *self.rows):
                    yield self._job(setting, row, seed)

    def _job(self, setting: str, row: str, seed: int) -> "Job":
        keys: dict[str, Value] = {"sites": self.sites, "seed": seed, "split-seed": seed}
        for more in (self.keys, self.rows.get(row, {}), self.settings[setting]):
            keys |= more
        hospitals = keys["sites"]
        keys.setdefault("min-sites", hospitals)  # none is compared that went on without a site
        source = f"{self.path}: {place(setting, row)}"
        config = _resolved(keys, source)
        if config.data.pool:
            keys |= {"sites": 1, "min-sites": 1}
        for key in PATHS:  # made full: the runs' processes may stand elsewhere
            if value := str(config.to_flat()[key]):
                keys[key] = str(config.path(value).resolve())
        config = _resolved(keys, source)
        assert isinstance(hospitals, int)  # as its configuration was accepted
        return Job(setting, row, seed, keys, config, hospitals)


@dataclass(frozen=True)
class Job:
    """One run of the comparison.

    Attributes
    ----------
    setting, row, seed
        Which one.
    keys
        What is typed for it, with full paths.
    config
        What follows from the keys; without the run's folder.
    hospitals
        Sites whose patients are scored; a pooled run has one node for all of them.
    """

    setting: str
    row: str
    seed: int
    keys: Keys
    config: RunConfig
    hospitals: int

    def given(self, **inputs: Path) -> "Job":
        """Return the job with ``data_dir`` and ``base_model`` where it names none."""
        flat = self.config.to_flat()
        new = {key.replace("_", "-"): str(path.resolve()) for key, path in inputs.items()}
        new = {key: path for key, path in new.items() if not flat[key]}
        keys = {**self.keys, **new}
        return replace(self, keys=keys, config=_resolved(keys, self.name))

    @property
    def name(self) -> str:
        """What people are shown."""
        return f"{place(self.setting, self.row)}, seed {self.seed}"

    @property
    def nodes(self) -> int:
        """SuperNodes of the run; the base model has none."""
        return 0 if self.row == BASE else self.config.method.sites


def place(setting: str, row: str) -> str:
    """Name a row in a setting."""
    return f"{setting}, {row}" if setting else row


def _resolved(keys: Keys, source: str) -> RunConfig:
    """Return a run's configuration as the run itself will see it."""
    try:
        return resolve_run({**RunConfig().to_flat(), **keys}, keys)
    except UserError as error:
        raise UserError(f"{source}: {str(error).removeprefix('run config: ')}") from None


def read_plan(path: Path) -> Plan:
    """Read and check a comparison's file.

    Raises
    ------
    UserError
        The file cannot be read, or a key in it is unknown or has a wrong value.
    """
    found: dict[str, Any] = dict(read_toml(path))
    known = {spec.name.replace("_", "-"): spec for spec in fields(Plan) if spec.name != "path"}
    if unknown := sorted(set(found) - set(known) - {"methods"}):
        names = ", ".join(sorted((*known, "methods")))
        raise UserError(f"{path}: unknown key {unknown[0]!r}; known are {names}")
    methods = _list(path, "methods", found.pop("methods", []), str)
    values: dict[str, Any] = {"path": path}
    for key, value in found.items():
        name = known[key].name
        if key == "seeds":
            values[name] = _list(path, key, value, int)
        elif key == "keys":
            values[name] = _keys(path, key, value)
        elif key in ("rows", "settings"):
            values[name] = _tables(path, key, value)
        else:
            values[name] = checked(key, value, known[key], str(path))
    rows = values.get("rows", {})
    if twice := sorted(set(methods) & set(rows)):
        raise UserError(f"{path}: rows: {twice[0]!r} is among the methods too, expected one of it")
    values["rows"] = {**{name: {METHOD_KEY: name} for name in methods}, **rows}
    values["settings"] = values.get("settings") or {"": {}}
    plan = Plan(**values)
    _check(plan)
    list(plan.jobs())  # a wrong key is told before anything is computed
    return plan


def _check(plan: Plan) -> None:
    if not plan.rows:
        raise UserError(f"{plan.path}: found neither methods nor rows, expected what to compare")
    if BASE in plan.rows:
        raise UserError(f"{plan.path}: rows: found {BASE!r}, which is the base model's own row")
    if not plan.seeds:
        raise UserError(f"{plan.path}: seeds: found none, expected at least one")
    if plan.reference not in plan.rows:
        raise UserError(
            f"{plan.path}: reference: found {plan.reference!r}, expected one of the rows "
            f"{', '.join(plan.rows)}"
        )


def _list(path: Path, key: str, value: object, of: type) -> list[Any]:
    """Return a list of numbers or texts, each of which is there once."""
    items = cast(list[object], value) if isinstance(value, list) else None
    good = items is not None and all(type(item) is of and item not in ("", None) for item in items)
    if items is None or not good or len(set(items)) < len(items):
        raise UserError(
            f"{path}: {key}: found {value!r}, expected a list of different {of.__name__}s"
        )
    if of is int and any(item < 0 for item in cast(list[int], items)):
        raise UserError(f"{path}: {key}: found {value!r}, expected numbers of at least 0")
    return items


def _tables(path: Path, key: str, value: object) -> dict[str, Keys]:
    if not isinstance(value, dict):
        raise UserError(f'{path}: {key}: found {value!r}, expected tables such as [{key}."a name"]')
    for name in value:
        if not (name.strip(" .") and name.isprintable() and len(name) <= LONGEST_NAME):
            raise UserError(
                f"{path}: {key}: found the name {name!r}, expected letters that can be printed, at "
                f"most {LONGEST_NAME}"
            )
    return {name: _keys(path, f"{key}.{name!r}", keys) for name, keys in value.items()}


def _keys(path: Path, where: str, value: object) -> Keys:
    if not isinstance(value, dict):
        raise UserError(f"{path}: {where}: found {value!r}, expected a table of keys of a run")
    for key, says in OURS.items():
        if key in value:
            raise UserError(f"{path}: {where}: found {key!r}, which {says} says for every run")
    return value
