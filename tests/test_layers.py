"""The floors of the project as pyproject.toml states them, and what no module may do."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("common", "strategies", "cardiac", "client_app", "server_app", "results", "cli")
PICKLES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
PROJECT = ROOT / "pyproject.toml"
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint_imports(folder: Path) -> tuple[int, str]:
    """Hold the imports of the packages in a folder against the contracts of pyproject.toml."""
    words = [sys.executable, "-c", LINT, "--config", str(PROJECT), "--no-cache"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


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
    project = tomllib.loads(PROJECT.read_text("utf-8"))["tool"]
    assert set(project["hatch"]["build"]["targets"]["wheel"]["packages"]) == set(PACKAGES)
    assert set(project["importlinter"]["root_packages"]) == {*PACKAGES, "benchmarks"}
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(PACKAGES)


def test_no_import_goes_upwards_and_no_modules_form_a_circle() -> None:
    status, said = lint_imports(ROOT)
    assert status == 0, said


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_ever_unpickled(path: Path) -> None:
    assert unsafe(ast.parse(path.read_text())) == set()


@pytest.mark.parametrize(
    ("files", "broken"),
    [
        ({"common/a": "import strategies"}, "floors"),
        ({"cardiac/c/a": "import client_app.b", "client_app/b": ""}, "floors"),
        ({"strategies/a": "def f():\n    from server_app import run"}, "floors"),
        ({"cardiac/a": "import strategies.merging", "strategies/merging": ""}, "floors"),
        ({"client_app/a": "import os, strategies.b as m", "strategies/b": ""}, "does without"),
        ({"server_app/a": "from client_app import b", "client_app/b": ""}, "floors"),
        ({"results/a": "if TYPE_CHECKING:\n    from cli.b import main", "cli/b": ""}, "floors"),
        ({"cli/a": "from tests.conftest import unet"}, "tests"),
        ({"common/a": "import common.b", "common/b": "from common import a"}, "no circle"),
        ({"results/c/a": "import results.d.b", "results/d/b": "import results.c.a"}, "no circle"),
    ],
)
def test_an_import_from_above_and_a_circle_are_found(
    tmp_path: Path, files: dict[str, str], broken: str
) -> None:
    folders = {*PACKAGES, "benchmarks", *(name.rpartition("/")[0] for name in files)}
    modules = {f"{folder}/__init__": "" for folder in sorted(folders)}
    for name, source in {**modules, **files}.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    status, said = lint_imports(tmp_path)
    assert status == 1, said
    (line,) = (line for line in said.splitlines() if "BROKEN" in line)
    assert broken in line


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
