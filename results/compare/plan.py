"""The plan of a comparison: its TOML file, and the runs that follow from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from common.config import HIGHEST_SEED, RunConfig
from common.errors import UserError
from common.options import Check, Value, option, parse, read_toml
from server_app.run_config import resolve_run

Keys = Mapping[str, Value]

BASE = "base"
"""The name of the base model's row, which every setting and seed has."""
METHOD_KEY = "preset"
"""The key of a run that names its method."""
OURS = {"seed": "seeds", "run-dir": "--out", "resume": "the command itself"}
"""Keys of a run that the comparison sets, and what sets them."""
LONGEST_NAME = 60
"""Most letters in the name of a row or setting, which becomes the name of a folder."""


@dataclass(frozen=True)
class Plan:
    """A comparison as its TOML file describes it."""

    path: Path
    """The TOML file."""
    seeds: tuple[int, ...] = option((0,), low=0, high=HIGHEST_SEED)
    """Every row runs once with each seed."""
    sites: int = option(3, low=1, high=10_000)
    """How many sites take part, unless a row or setting has a key ``sites`` of its own."""
    adapt_epochs: int = option(1, low=0, high=10_000)
    """Local epochs of fast adaptation; 0 leaves adaptation out."""
    reference: str = "rate-my-lora"
    """The row that the others are tested against."""
    methods: tuple[str, ...] = ()
    """Methods that become rows under their own names."""
    keys: Keys = field(default_factory=dict)
    """The keys that all runs have in common."""
    rows: Mapping[str, Keys] = field(default_factory=dict)
    """The keys of each row, by its name."""
    settings: Mapping[str, Keys] = field(default_factory=dict)
    """The keys of each setting, by its name. A plan without settings has one named ""."""

    def checks(self) -> Iterator[Check]:
        """Yield what must hold for the plan as it stands in the file."""
        names = [*self.methods, *self.rows]
        listed = ", ".join(names)
        yield "seeds", [], bool(self.seeds), "at least one"
        yield (
            "rows",
            None,
            bool(names),
            "something to compare, but there are neither methods nor rows",
        )
        for name in names:
            yield "rows", name, names.count(name) == 1, "a name that is not among the methods too"
        yield "rows", BASE, BASE not in names, "another name, as this is the base model's own row"
        yield "reference", self.reference, self.reference in names, f"one of the rows {listed}"
        yield from _table_checks("keys", self.keys)
        for kind, tables in {"rows": self.rows, "settings": self.settings}.items():
            for name, keys in tables.items():
                good = name.strip(" .") and name.isprintable() and len(name) <= LONGEST_NAME
                expected = f"a name that can be printed, at most {LONGEST_NAME} letters long"
                yield kind, name, bool(good), expected
                yield from _table_checks(f"{kind}.{name!r}", keys)

    def jobs(self) -> Iterator["Job"]:
        """Yield all runs by setting, seed and row, the base model first among the rows.

        Raises
        ------
        UserError
            A key is unknown or its value is wrong; the error names the row and the setting.
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
        keys.setdefault("min-sites", hospitals)  # so that no run goes on without a site
        source = f"{self.path}: {place(setting, row)}"
        config = _resolved(keys, source)
        if config.data.pool:
            keys |= {"sites": 1, "min-sites": 1}
        for key in RunConfig.keys_that_affect("input", "place"):
            if key not in OURS and (value := str(config.to_flat()[key])):
                keys[key] = str(config.path(value).resolve())  # a run may start in another folder
        config = _resolved(keys, source)
        assert isinstance(hospitals, int)  # as the configuration was accepted
        return Job(setting, row, seed, keys, config, hospitals)


@dataclass(frozen=True)
class Job:
    """One run of the comparison, named by its setting, row and seed."""

    setting: str
    row: str
    seed: int
    keys: Keys
    """The keys that are given to the run, with full paths."""
    config: RunConfig
    """The configuration that follows from the keys, except for the run's folder."""
    hospitals: int
    """How many sites' patients are scored. A pooled run has one node for all of them."""

    def given(self, **inputs: Path) -> "Job":
        """Return the job with ``data_dir`` and ``base_model`` set where its keys name none."""
        flat = self.config.to_flat()
        new = {key.replace("_", "-"): str(path.resolve()) for key, path in inputs.items()}
        new = {key: path for key, path in new.items() if not flat[key]}
        keys = {**self.keys, **new}
        return replace(self, keys=keys, config=_resolved(keys, self.name))

    @property
    def name(self) -> str:
        """The job's name in messages: ``SETTING, ROW, seed N``."""
        return f"{place(self.setting, self.row)}, seed {self.seed}"

    @property
    def nodes(self) -> int:
        """The number of the run's SuperNodes; 0 for the base model, which needs no run."""
        return 0 if self.row == BASE else self.config.federation.sites


def place(setting: str, row: str) -> str:
    """Return the name of a row in a setting."""
    return f"{setting}, {row}" if setting else row


def _resolved(keys: Keys, source: str) -> RunConfig:
    """Return the configuration that a run resolves from its keys."""
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
    plan = parse(Plan, read_toml(path), str(path), path=path)
    rows = {**{name: {METHOD_KEY: name} for name in plan.methods}, **plan.rows}
    plan = replace(plan, rows=rows, settings=plan.settings or {"": {}})
    list(plan.jobs())  # finds a wrong key before anything is computed
    return plan


def _table_checks(where: str, keys: object) -> Iterator[Check]:
    """Yield what must hold for one table of a run's keys."""
    yield where, keys, isinstance(keys, dict), "a table of keys of a run"
    for key, says in OURS.items():
        yield where, key, key not in cast(Keys, keys), f"none, as {says} sets it for every run"
