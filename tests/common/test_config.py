"""Keys of a run: declared once, documented, and errors name the wrong one."""

import ast
import math
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from common.config import DataConfig, ModelConfig, RunConfig
from common.errors import UserError
from common.options import keys_of

ROOT = Path(__file__).resolve().parents[2]
CONFIG_MODULES = ("config", "method")
GROUPS = {spec.name: spec.type for spec in fields(RunConfig) if is_dataclass(spec.type)}


def refusal(key: str, value: object, **others: Any) -> str:
    """Return the message with which a value is refused."""
    flat = {**others, key: value}
    with pytest.raises(UserError) as caught:
        RunConfig.from_flat(flat, "here")
    message = str(caught.value)
    assert f"{key}: found {value!r}" in message
    return message


def typed(flat: dict[str, Any]) -> dict[str, tuple[type, Any]]:
    return {key: (type(value), value) for key, value in flat.items()}


def test_pyproject_holds_every_key_with_its_default() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert typed(pyproject["tool"]["flwr"]["app"]["config"]) == typed(RunConfig().to_flat())


PROFILES = [
    p for p in sorted((ROOT / "configs").glob("*.toml")) if not p.stem.startswith("compare")
]


@pytest.mark.parametrize("path", PROFILES, ids=lambda p: p.stem)
def test_ready_configurations_are_valid_and_say_something(path: Path) -> None:
    flat = tomllib.loads(path.read_text())
    config = RunConfig.from_flat(flat, path.name)
    assert config != RunConfig()
    assert {key: config.to_flat()[key] for key in flat} == flat


def test_the_ready_configurations_are_there() -> None:
    assert {"cpu", "paper", "small"} <= {path.stem for path in (ROOT / "configs").glob("*.toml")}


def test_every_key_is_described_below_its_field() -> None:
    described, found = set(), set()
    modules = [ast.parse((ROOT / "common" / f"{name}.py").read_text()) for name in CONFIG_MODULES]
    body = [node for tree in modules for node in tree.body]
    for cls in (node for node in body if isinstance(node, ast.ClassDef)):
        for node, below in zip(cls.body, [*cls.body[1:], None], strict=True):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                key = node.target.id.replace("_", "-")
                found.add(key)
                match below:
                    case ast.Expr(ast.Constant(str(text))) if text.strip().endswith("."):
                        described.add(key)
    assert found == {*RunConfig.keys(), *GROUPS}  # the walk has seen them all
    assert set(RunConfig.keys()) - described == set()


def test_keys_are_in_kebab_case_and_unique() -> None:
    keys = RunConfig.keys()
    declared = sum(len(fields(group)) for group in (RunConfig, *GROUPS.values()))
    assert len(keys) == declared - len(GROUPS) > 30
    assert not any("_" in key or key != key.lower() for key in keys)


def test_nothing_given_gives_the_defaults() -> None:
    assert RunConfig.from_flat({}) == RunConfig()


def test_a_round_trip_keeps_every_value() -> None:
    changed: dict[str, Any] = {
        **RunConfig().to_flat(),
        "rank": 16,
        "learning-rate": 0.5,
        "augment": False,
        "merge": "pad",
        "seed": 9,
        "spacing-mm": 1.25,
        "run-dir": "elsewhere",
        "lambda-0": 0.0,
    }
    assert typed(RunConfig.from_flat(changed).to_flat()) == typed(changed)


def test_a_whole_number_is_taken_for_a_float_and_becomes_one() -> None:
    assert typed(RunConfig.from_flat({"spacing-mm": 2}).to_flat())["spacing-mm"] == (float, 2.0)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("lambda", "lambda-0"),
        ("lambda_0", "lambda-0"),
        ("Rank", "rank"),
        ("", ""),
        ("wait", "wait-s"),
    ],
)
def test_an_unknown_key_is_named_and_the_known_ones_are_listed(key: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig.from_flat({key: 1}, "pyproject.toml")
    message = str(caught.value)
    known = ", ".join(sorted(RunConfig.keys()))
    hint = f" (did you mean {near!r}?)" if near else ""
    assert message == f"pyproject.toml: unknown key {key!r}{hint}; known are {known}"


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rank", "8", "int"),
        ("rank", 8.0, "int"),
        ("rank", True, "int"),
        ("seed", False, "int"),
        ("lambda-0", "0.2", "float"),
        ("lambda-0", True, "float"),
        ("augment", 1, "bool"),
        ("augment", "true", "bool"),
        ("resume", 0, "bool"),
        ("features", 32, "str"),
        ("merge", 1, "str"),
        ("data-dir", False, "str"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(key: str, value: object, expected: str) -> None:
    message = refusal(key, value)
    assert message.startswith("here: ")
    assert f"({type(value).__name__}), expected a" in message
    assert message.endswith(f" {expected}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("rank", 0, "at least 1 and at most 512"),
        ("rank", 513, "at least 1 and at most 512"),
        ("alpha-per-rank", 0.0, "above 0 and at most 1000"),
        ("spacing-mm", 0.0, "at least 0.3 and at most 10"),
        ("spacing-mm", 10.5, "at least 0.3 and at most 10"),
        ("lambda-0", -0.1, "at least 0 and at most 1"),
        ("lambda-0", 1.1, "at least 0 and at most 1"),
        ("decay", 0.0, "above 0 and at most 1"),
        ("learning-rate", float("nan"), "above 0 and at most 10"),
        ("learning-rate", float("inf"), "above 0 and at most 10"),
        ("weight-decay", float("inf"), "at least 0 and at most 1000"),
        ("seed", -1, "at least 0 and at most 4294967295"),
        ("image-size", 16, "at least 32 and at most 4096"),
        ("merge", "mean", "one of ['svd', 'pad', 'fold', 'residual']"),
        ("device", "tpu", "one of ['auto', 'cpu', 'cuda']"),
    ],
)
def test_a_value_out_of_range_is_refused(key: str, value: object, expected: str) -> None:
    assert refusal(key, value).endswith(f", expected {expected}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spacing-mm", 0.3),
        ("rank", 1),
        ("rank", 512),
        ("lambda-0", 0.0),
        ("lambda-0", 1.0),
        ("decay", 1.0),
    ],
)
def test_the_ends_of_a_range_are_in_it(key: str, value: float) -> None:
    assert RunConfig.from_flat({key: value}).to_flat()[key] == value


@pytest.mark.parametrize(
    "features",
    [
        "",
        "32",
        "32,64,128,256,512",
        "32,64,128,256,512,32,32",
        "8,16,32,64,128,0",
        "8,16,32,64,-128,8",
        "8,16,32,64,128,²",
        "8,16,32,64,128,8.0",
        "8 16 32 64 128 8",
        "8,16,32,64,4097,8",
    ],
)
def test_features_that_are_not_six_channel_counts_are_refused(features: str) -> None:
    assert "expected six channel counts such as '32,64," in refusal("features", features)


def test_features_are_read_as_numbers() -> None:
    assert ModelConfig(features="1, 2,3 ,4,5,66").channels() == (1, 2, 3, 4, 5, 66)


@pytest.mark.parametrize("size", [40, 97, 100])
def test_an_image_size_that_the_network_cannot_halve_is_refused(size: int) -> None:
    assert refusal("image-size", size).endswith("expected a multiple of 16")


def test_every_number_has_a_lowest_and_a_highest_value() -> None:
    endless = set()
    for key, spec in keys_of(RunConfig).items():
        low, high = max(spec.metadata["low"], spec.metadata["above"]), spec.metadata["high"]
        if spec.type in (int, float) and not (math.isfinite(low) and math.isfinite(high)):
            endless.add(key)
    assert endless == set()


def test_more_sites_needed_than_there_are_is_refused() -> None:
    message = refusal("min-sites", 4, sites=3)
    assert message.endswith("expected at most sites = 3")
    assert RunConfig.from_flat({"min-sites": 3, "sites": 3}).federation.min_sites == 3


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        RunConfig().data.data_dir = "elsewhere"  # type: ignore[misc]
    assert RunConfig().data == DataConfig()


def test_a_home_folder_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert RunConfig().path("~/data") == Path("/home/someone/data")


def test_the_cpu_is_taken_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    available = {"cuda": True}
    monkeypatch.setattr("torch.cuda.is_available", lambda: available["cuda"])
    found = {}
    for name in ("auto", "cpu", "cuda"):
        found[name] = RunConfig.from_flat({"device": name}).train.torch_device().type
    assert found == {"auto": "cuda", "cpu": "cpu", "cuda": "cuda"}
    available["cuda"] = False
    assert RunConfig().train.torch_device().type == "cpu"
    with pytest.raises(UserError, match="device: found 'cuda'"):
        RunConfig.from_flat({"device": "cuda"}).train.torch_device()
