"""Names outside Flower's public interface come from two modules, each with what it is for."""

import ast
import re
from collections.abc import Iterator

import flwr.common
import pytest

from tests.test_layers import PACKAGES, ROOT

PRIVATE = ("common/flower_private.py", "benchmarks/flower_private.py")
"""The second has what only benchmarks and tests need, which are not installed."""
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"}
OURS = (*PACKAGES, "benchmarks", "deploy", "tests")
MODULES = sorted(path for folder in OURS for path in (ROOT / folder).rglob("*.py"))


def flower_imports(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, module and name of every import of Flower's, anywhere in a source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            named = ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            named = ((node.module, alias.name) for alias in node.names)
        else:
            continue
        for module, name in named:
            if module.split(".")[0] == "flwr":
                yield node.lineno, module, name


def is_public(module: str, name: str) -> bool:
    if module == "flwr.common":
        return not name or name in flwr.common.__all__
    return module in PUBLIC and not name.startswith("_")


def private_imports(source: str) -> set[str]:
    found = flower_imports(source)
    return {f"{module}.{name}" for _, module, name in found if not is_public(module, name)}


def test_private_names_come_from_their_modules_alone() -> None:
    found = {
        str(path.relative_to(ROOT)): private_imports(path.read_text("utf-8")) for path in MODULES
    }
    assert {name for name, imports in found.items() if imports} == set(PRIVATE)


@pytest.mark.parametrize("module", PRIVATE)
def test_each_says_what_it_is_for(module: str) -> None:
    """Over every block of imports stands a comment, or the docstring of what it is alone for."""
    source = (ROOT / module).read_text("utf-8")
    lines = source.splitlines()
    for line, name, _ in flower_imports(source):
        above = line - 2
        while lines[above].strip().startswith("from flwr.") or not lines[above].strip():
            above -= 1
        said = lines[above].strip().startswith("#") or lines[above].endswith('"""')
        assert said or is_public(name, ""), name


@pytest.mark.parametrize("module", PRIVATE)
def test_the_page_names_every_one(module: str) -> None:
    page = (ROOT / "docs" / "flower.md").read_text("utf-8")
    quoted = set(re.findall(r"`([\w.]+)`", page))
    missing = private_imports((ROOT / module).read_text("utf-8")) - quoted
    assert missing == set()


def test_the_page_names_no_other() -> None:
    page = (ROOT / "docs" / "flower.md").read_text("utf-8")
    table = page.partition("## Private names")[2].partition("\n## ")[0]
    quoted = set(re.findall(r"`(flwr\.[\w.]+)`", table))
    imported = {name for m in PRIVATE for name in private_imports((ROOT / m).read_text("utf-8"))}
    assert quoted == imported


@pytest.mark.parametrize(
    "source",
    [
        "from flwr.supercore.run import Run",
        "def f():\n    from flwr.common.constant import SUPERLINK_NODE_ID",
        "import flwr.server",
        "from flwr.common import constant",
        "from flwr.app import _private",
        "from flwr.simulation.run_simulation import _run_simulation",
    ],
)
def test_a_private_name_is_found(source: str) -> None:
    assert len(private_imports(source)) == 1


def test_public_names_are_not_accused() -> None:
    source = "from flwr.app import Message\nfrom flwr.common import log\nimport flwr.common"
    assert private_imports(source) == set()
