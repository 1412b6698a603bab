"""A round with many sites."""

import pytest

from tests.strategies.fakes import FakeGrid, FakeSite, make_config, nodes, play, same_bits


@pytest.mark.timeout(60)
def test_a_hundred_sites() -> None:
    def sites() -> list[FakeSite]:
        return [
            FakeSite(f"site {n:03}", 10 + n, {0: 0.5, 1: 0.4 if n == 7 else 0.6})
            for n in range(100)
        ]

    config = make_config(sites=100, min_sites=90, ranks="by-size", rounds=1)
    outcome = play(config, FakeGrid(nodes(*sites())))
    weights = outcome.penalties(1)
    assert weights.pop("site 007") == 1.0
    assert weights == {f"site {n:03}": 0.8 for n in range(100) if n != 7}
    assert outcome.refused(1) == {}
    shuffled = play(config, FakeGrid(nodes(*reversed(sites())), shuffle=5))
    assert same_bits(outcome.states[1].parameters, shuffled.states[1].parameters)
