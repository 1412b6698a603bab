"""deploy/lock holds what the tests run with, and nothing that pip would take without a hash."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.write_locks import FOLDER
from tests.test_dependencies import declared
from tests.test_deploy import pins

LOCKS = sorted(FOLDER.glob("*.txt"))
HASHED = re.compile(r"([a-z0-9.-]+)==([0-9][\w.+]*)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
BUILDS = {"hatchling", "editables", "pathspec", "pluggy", "tomlkit", "trove-classifiers"}
"""What builds the project; packaging, which it needs too, is a library's as well."""


def locked(path: Path) -> dict[str, str]:
    """Return the versions of a lock, in which there is nothing else than hashed versions."""
    text = path.read_text("utf-8")
    found = HASHED.findall(text)
    assert "".join("=={}{}".format(*rest).join((name, "\n")) for name, *rest in found) == text
    return {canonicalize_name(name): version for name, version, _ in found}


def test_there_is_a_lock_for_every_python_and_for_torch_with_and_without_cuda() -> None:
    names = {path.stem for path in LOCKS}
    assert {"cp311-cuda", "cp312-cuda", "cp313-cuda", "cp314-cuda", "cp311-cpu"} <= names


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_holds_the_constraints_and_all_that_the_project_needs(path: Path) -> None:
    found = locked(path)
    assert declared("onnx", "tensorboard") <= set(found)
    for name, version in pins().items():
        if name in found:
            assert found[name].partition("+")[0] == version, name
    unpinned = set(found) - set(pins()) - BUILDS
    cuda = {name for name in unpinned if name.startswith(("nvidia-", "cuda-"))} | {"triton"}
    assert unpinned <= cuda
    assert bool(unpinned) == ("+cpu" not in found["torch"])


def test_the_tests_run_with_what_is_locked() -> None:
    """The lock of this Python and this torch has the versions that are installed here."""
    variant = "cpu" if "+cpu" in metadata.version("torch") else "cuda"
    path = FOLDER / f"cp3{sys.version_info.minor}-{variant}.txt"
    if path not in LOCKS:
        pytest.skip(f"no lock for {path.stem}")
    tools = {name for name in BUILDS if not _installed(name)}
    found = {name: version for name, version in locked(path).items() if name not in tools}
    assert {name: metadata.version(name) for name in found} == found


def test_what_the_tests_run_with_is_locked() -> None:
    """Every library that the project needs, and that they need in turn, is in the locks."""
    found: set[str] = set()
    todo = ["rate-my-lora"]
    while todo:
        name = todo.pop()
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            needed = canonicalize_name(requirement.name)
            wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if wanted and needed not in found and _installed(needed):
                found.add(needed)
                todo.append(needed)
    assert len(found) > 50
    for path in LOCKS:
        assert found - set(locked(path)) <= {"importlib-resources"}, path


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
