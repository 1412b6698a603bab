"""The tree in docs/architecture.md is the tree, and links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("common", "strategies", "cardiac", "client_app", "server_app", "results", "cli")


def listed() -> dict[str, set[str]]:
    """Return what the tree names in each folder."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = page.split("## The tree")[1].split("```")[1]
    tree: dict[str, set[str]] = {}
    folder = ""
    for line in block.strip().splitlines():
        name = line.split()[0]
        if line.startswith(" "):
            tree[folder].add(name.rstrip("/"))
        else:
            folder = name.rstrip("/")
            tree[folder] = set()
    return tree


@pytest.mark.parametrize("package", PACKAGES)
def test_tree_names_every_module_and_no_other(package: str) -> None:
    modules = {path.name for path in (ROOT / package).glob("*.py")} - {"__init__.py"}
    packages = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert listed()[package] == modules | packages


def test_every_link_leads_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
