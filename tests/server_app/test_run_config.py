"""Typed keys override the preset, that the profile, and that pyproject.toml."""

from pathlib import Path

import pytest
import tomli_w

from common.config import RunConfig
from common.errors import UserError
from common.options import Value, read_toml
from server_app.run_config import PROFILES, load_config, resolve_run
from strategies.methods import METHODS

DEFAULTS = RunConfig().to_flat()


def test_without_profile_the_fused_configuration_is_it() -> None:
    assert resolve_run({**DEFAULTS, "rounds": 7}, {"rounds": 7}).federation.rounds == 7


def test_profile_lies_between_pyproject_and_what_was_typed() -> None:
    typed: dict[str, Value] = {"profile": "cpu", "learning-rate": 0.5}
    config = resolve_run({**DEFAULTS, **typed}, typed)
    cpu = read_toml(PROFILES / "cpu.toml")
    assert config.train.image_size == cpu["image-size"] != DEFAULTS["image-size"]
    assert config.train.learning_rate == 0.5


def test_a_typed_value_wins_even_where_it_is_the_default() -> None:
    typed: dict[str, Value] = {"profile": "cpu", "rounds": DEFAULTS["rounds"]}
    assert read_toml(PROFILES / "cpu.toml")["rounds"] != DEFAULTS["rounds"]
    assert resolve_run({**DEFAULTS, **typed}, typed).federation.rounds == DEFAULTS["rounds"]


def test_unknown_profile_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"profile: found 'gpu', expected one of \['cpu', 'paper'"):
        resolve_run({**DEFAULTS, "profile": "gpu"}, {"profile": "gpu"})


def test_resolved_configuration_is_a_configuration_file(tmp_path: Path) -> None:
    config = RunConfig.from_flat({"rounds": 3, "split-by": "CENTRE"})
    path = tmp_path / "config.toml"
    path.write_text(tomli_w.dumps(config.to_flat()), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the file"),
        ("rounds = ", "not TOML"),
        ("# \xe9", "not TOML"),
        ("runds = 3", "unknown key 'runds'"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: str | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=message) as error:
        load_config(path)
    assert "mine.toml" in str(error.value)


def test_a_preset_lies_between_the_profile_and_what_was_typed() -> None:
    fused = {**RunConfig().to_flat(), "profile": "cpu", "preset": "flora"}
    config = resolve_run(fused, {"share": "site"})
    assert (config.method.merge, config.method.rating) == ("fold", "none")
    assert config.method.share == "site"
    assert config.model.channels()[0] == 16


def test_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"preset: found 'fedsgd', expected one of \['centralised'"):
        resolve_run({**RunConfig().to_flat(), "preset": "fedsgd"}, {})


@pytest.mark.parametrize("name", METHODS)
def test_every_preset_is_a_configuration_that_says_where_it_is_from(name: str) -> None:
    config = resolve_run({**RunConfig().to_flat(), "preset": name}, {})
    assert {key: config.to_flat()[key] for key in METHODS[name].keys} == METHODS[name].keys
    assert all((METHODS[name].title, METHODS[name].source, METHODS[name].equation))
