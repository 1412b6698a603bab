"""A deployed site has a range for every key, within which every shipped configuration lies."""

from pathlib import Path

import pytest

from client_app import limits
from client_app.limits import RANGES, TEXTS
from client_app.settings import LimitError, SiteSettings
from common import messages
from common.config import RunConfig
from common.messages import Failure
from common.options import Value, keys_of, read_toml
from tests.test_layers import ROOT

SITE = SiteSettings(name="GE", max_memory_gib=64)
RESULT = RunConfig.keys_that_affect("result")
PROFILES = sorted(
    path for path in (ROOT / "configs").glob("*.toml") if not path.name.startswith("compare")
)


def check(settings: SiteSettings, **keys: Value) -> None:
    flat = {key.replace("_", "-"): value for key, value in keys.items()}
    limits.check(settings, messages.Train(RunConfig.from_flat(flat), "a1"))


def test_no_key_that_affects_the_result_is_without_a_range() -> None:
    specs = keys_of(RunConfig)
    bounded = {key for key in RESULT if specs[key].type is bool or specs[key].metadata["choices"]}
    assert sorted({*bounded, *RANGES, *TEXTS}) == sorted(RESULT)
    assert not {*bounded} & {*RANGES, *TEXTS}


@pytest.mark.parametrize("key", RANGES)
def test_a_range_lies_within_that_of_the_key_and_holds_its_default(key: str) -> None:
    limit, (low, high) = keys_of(RunConfig)[key].metadata, RANGES[key]
    assert max(limit["low"], limit["above"]) <= low <= high <= limit["high"]
    assert low <= keys_of(RunConfig)[key].default <= high


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.name)
def test_a_shipped_configuration_is_within_all_limits(path: Path) -> None:
    check(SITE, **read_toml(path))
    check(SiteSettings(name="GE"), **read_toml(path))


@pytest.mark.parametrize("key", RANGES)
def test_what_lies_beyond_is_declined_with_a_sentence_that_may_leave(key: str) -> None:
    _, high = RANGES[key]
    limit = keys_of(RunConfig)[key].metadata["high"]
    if high == limit:
        return
    kind = keys_of(RunConfig)[key].type
    beyond = min(limit, 16 * high + 16) if kind is int else min(limit, 2 * high)
    with pytest.raises(LimitError) as found:
        check(SITE, **{key: kind(beyond)})
    Failure(str(found.value)).check()


def test_a_simulation_has_the_ranges_of_the_keys_alone() -> None:
    simulated = SiteSettings(partition=0, partitions=3)
    check(simulated, learning_rate=1.0, spacing_mm=9.0, image_size=4096, batch_size=65_536)


def test_memory_grows_with_batch_size_and_network() -> None:
    small = RunConfig.from_flat({"batch-size": 8})
    doubled = RunConfig.from_flat({"batch-size": 16})
    one = RunConfig.from_flat({"batch-size": 1})
    per_slice = (limits.training_bytes(doubled) - limits.training_bytes(small)) / 8
    assert limits.training_bytes(small) == limits.training_bytes(one) + 7 * per_slice
    large = RunConfig.from_flat({"batch-size": 8, "features": "32,64,128,256,512,32"})
    assert limits.training_bytes(large) > 3 * limits.training_bytes(small)
