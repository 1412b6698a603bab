"""Properties of every rule."""

import json
from typing import Any

import pytest

from strategies.rules import RULES
from tests.strategies.rules.samples import SHARE, SITES, rated, rule, updates


@pytest.mark.parametrize("rating", RULES)
def test_memory_is_what_json_holds_and_masses_sum_to_one(rating: str) -> None:
    memory: dict[str, Any] = {}
    found = rule(rating, memory)
    share = found.shares(1, SHARE, updates())
    count = 1 + len(found.others(1, share))
    settled = found.settle(1, share, rated(*[(0.5,) * count] * 3), dict.fromkeys(SITES, 0.4))
    assert sum(share.values()) == pytest.approx(1)
    assert sum(settled.masses.values()) == pytest.approx(1)
    assert set(settled.masses) == set(settled.factors) == set(SITES)
    assert json.loads(json.dumps(memory)) == memory
