"""Whatever comes from elsewhere, every parser reads it or raises an error of our own."""

import os
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from resource import RLIM_INFINITY, RLIMIT_AS, getrlimit, setrlimit

import pytest

from tests.fuzz.targets import TARGETS

COUNT = int(os.environ.get("FUZZ", "1000"))
"""Damaged inputs for each parser; `make fuzz` has a hundred times as many."""
SEED = int(os.environ.get("FUZZ_SEED", "0"))
MORE_BYTES = 4 * 2**30
"""Address space that the parsers may take beside what the process has."""


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Let an input that asks for more memory than it should fail here, and not the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = getrlimit(RLIMIT_AS)
    setrlimit(RLIMIT_AS, (pages * os.sysconf("SC_PAGESIZE") + MORE_BYTES, before[1]))
    yield
    setrlimit(RLIMIT_AS, (RLIM_INFINITY if before[0] == RLIM_INFINITY else before[0], before[1]))


CASES = [
    pytest.param(name, marks=pytest.mark.xfail(strict=True, reason=target.waits))
    if target.waits
    else name
    for name, target in TARGETS.items()
]


@pytest.mark.parametrize("name", CASES)
def test_only_our_own_errors(
    name: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    target = TARGETS[name]
    make, read = target.prepare(tmp_path)
    random = Random(f"{name} {SEED}")  # noqa: S311
    outcomes: Counter[str] = Counter()
    foreign: dict[str, str] = {}
    slowest = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(COUNT):
            made = make(random)
            started = time.monotonic()
            try:
                read(made)
                outcomes["read"] += 1
            except target.ours:
                outcomes["refused"] += 1
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                key = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
                foreign.setdefault(key, f"input {number}: {traceback.format_exc()[-1500:]}")
            slowest = max(slowest, time.monotonic() - started)
    record_property(
        "fuzz",
        f"{COUNT:7d} {outcomes['read']:7d} {outcomes['refused']:7d}"
        f" {len(foreign):5d} {slowest * 1000:7.0f}  {name}",
    )
    assert outcomes["refused"] or not target.ours, "no input was damaged enough"
    assert not foreign, "\n".join(f"{key}: {text}" for key, text in foreign.items())
