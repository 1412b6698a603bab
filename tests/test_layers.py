"""The layers of the project, and what no module may do."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "common": set[str](),
    "strategies": {"common"},
    "cardiac": {"common"},
    "client_app": {"common", "cardiac"},
    "server_app": {"common", "strategies", "cardiac"},
    "results": {"common", "strategies", "cardiac", "client_app", "server_app"},
    "cli": {"common", "strategies", "cardiac", "client_app", "server_app", "results"},
}
"""What each package may import of ours, besides itself."""
OURS = {*ALLOWED, "tests", "benchmarks"}
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}

MODULES = sorted(path for package in ALLOWED for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of all that is imported, anywhere in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def wrong_imports(package: str, tree: ast.AST) -> set[str]:
    """Return imports that the layers forbid; relative ones could leave the package unseen."""
    return {
        name
        for name in imports(tree)
        if name.startswith(".") or name.split(".")[0] in OURS - ALLOWED[package] - {package}
    }


def unsafe(tree: ast.AST) -> set[str]:
    """Return all that would unpickle what others wrote."""
    found = {name for name in imports(tree) if name.split(".")[0] in PICKLES}
    found |= {name for name in imports(tree) if name in ("torch.load", "numpy.load")}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load" and given.get("weights_only") != "True":
            found.add("torch.load without weights_only=True")
        if given.get("allow_pickle", "False") != "False":
            found.add(f"{name} with allow_pickle")
    return found


def test_every_package_is_walked() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_only_from_the_layers_below(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    assert wrong_imports(package, ast.parse(path.read_text())) == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_ever_unpickled(path: Path) -> None:
    assert unsafe(ast.parse(path.read_text())) == set()


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("common", "import strategies"),
        ("common", "from client_app.site import Site"),
        ("strategies", "def f():\n    from server_app import run"),
        ("client_app", "import os, strategies.merging as m"),
        ("server_app", "from client_app import site"),
        ("server_app", "if TYPE_CHECKING:\n    from cli.main import main"),
        ("cli", "from tests.conftest import unet"),
        ("common", "from ..strategies import merging"),
    ],
)
def test_an_import_from_above_is_found(package: str, source: str) -> None:
    assert len(wrong_imports(package, ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from torch import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
    ],
)
def test_an_unsafe_reader_is_found(source: str) -> None:
    assert len(unsafe(ast.parse(source))) == 1


def test_safe_readers_are_not_accused() -> None:
    source = "torch.load(path, weights_only=True)\nnp.load(path, allow_pickle=False)\njson.load(f)"
    assert unsafe(ast.parse(source)) == set()
