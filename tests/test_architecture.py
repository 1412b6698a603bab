"""The tree in docs/architecture.md is what modules say of themselves; links lead somewhere."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGES = ("common", "strategies", "cardiac", "client_app", "server_app", "results", "cli")


def first_sentence(module: Path) -> str:
    """Return the first paragraph of a module's docstring, without its full stop."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split("\n\n")[0].split()).rstrip(".").replace("``", "`")


def tree() -> Iterator[str]:
    """Yield the lines of the tree."""
    for package in PACKAGES:
        yield f"{package + '/':<24}{first_sentence(ROOT / package / '__init__.py')}"
        for path in sorted((ROOT / package).iterdir()):
            if (path / "__init__.py").is_file():
                yield f"  {path.name + '/':<23} {first_sentence(path / '__init__.py')}"
            elif path.suffix == ".py" and path.name != "__init__.py":
                yield f"  {path.name:<23} {first_sentence(path)}"


def test_the_tree_is_that_of_the_modules() -> None:
    block = PAGE.read_text(encoding="utf-8").split("## The tree")[1].split("```")[1]
    found = block.strip().splitlines()
    expected = list(tree())
    assert found[: len(expected)] == expected, "\n".join(["expected", *expected])


def test_every_link_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
