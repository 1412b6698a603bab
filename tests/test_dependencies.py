"""What is imported is declared in pyproject.toml, and nothing is declared that nobody uses."""

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = ("common", "strategies", "cardiac", "client_app", "server_app", "results", "cli")
TOOLS = (*PRODUCT, "benchmarks", "deploy", "tests")
NOT_IMPORTED = {
    "scikit-image": "MONAI keeps the largest connected part with it",
    "onnxscript": "torch.onnx.export needs it",
    "jsonschema": "MONAI checks a bundle's metadata with it",
    "playwright": "imported by name where a browser is installed",
    "tensorboard": "torch.utils.tensorboard needs it",
    "import-linter": "a process of its own in tests/test_layers.py",
    **dict.fromkeys(("pytest-timeout", "pytest-xdist"), "pytest loads it as a plugin"),
    **dict.fromkeys(("ruff", "mypy", "pre-commit", "uv"), "a command"),
}
"""What is declared and not imported, and why it is declared."""


def imported(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the distributions that modules import, each with a module that does."""
    modules: dict[str, str] = {}
    for path in (path for package in packages for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in filter(None, names):
                modules[name.split(".")[0]] = str(path.relative_to(ROOT))
    known = packages_distributions()
    foreign = set(modules) - sys.stdlib_module_names - set(TOOLS)
    return {canonicalize_name(known.get(m, [m])[0]): f"{m} in {modules[m]}" for m in foreign}


def declared(*extras: str) -> set[str]:
    """Return the names of what the project needs, with what extras of it add."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"]]
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    names = {str(canonicalize_name(Requirement(line).name)) for line in lines}
    return names - {"rate-my-lora"}


@pytest.mark.parametrize(
    ("packages", "extras"),
    [(PRODUCT, ("onnx", "tensorboard")), (TOOLS, ("onnx", "tensorboard", "dev"))],
)
def test_what_is_imported_is_declared(packages: tuple[str, ...], extras: tuple[str, ...]) -> None:
    found = imported(packages)
    assert len(found) > 10
    assert {name: found[name] for name in set(found) - declared(*extras)} == {}


def test_what_is_declared_is_imported_or_has_a_reason() -> None:
    everything = declared("onnx", "tensorboard", "dev")
    assert everything - set(imported(TOOLS)) - set(NOT_IMPORTED) == set()
    assert set(NOT_IMPORTED) <= everything
    assert declared() - set(imported(PRODUCT)) - set(NOT_IMPORTED) == set()
