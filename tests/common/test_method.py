"""What a method sends follows from its keys, and keys that contradict each other are refused."""

import pytest

from common.config import RunConfig
from common.errors import UserError
from common.method import BOTH, Half, MethodConfig
from common.options import Value

A: tuple[Half, ...] = ("A",)
B: tuple[Half, ...] = ("B",)


def method(**keys: Value) -> MethodConfig:
    return MethodConfig(merge="pad", rating="none", **keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keys", "trained", "up", "down"),
    [
        ({}, [BOTH, BOTH], [BOTH, BOTH], [BOTH, BOTH]),
        ({"factors": "B"}, [B, B], [B, B], [B, B]),
        ({"factors": "alternate"}, [B, A], [B, A], [B, A]),
        ({"sends": "A"}, [BOTH, BOTH], [A, A], [A, A]),
        ({"sends": "none"}, [BOTH, BOTH], [(), ()], [(), ()]),
    ],
)
def test_what_trains_and_travels(
    keys: dict[str, Value],
    trained: list[tuple[Half, ...]],
    up: list[tuple[Half, ...]],
    down: list[tuple[Half, ...]],
) -> None:
    found = method(**keys)
    assert [found.trained(t) for t in (1, 2)] == trained
    assert [found.sent_up(t) for t in (1, 2)] == up
    assert [found.sent_down(t, whole=False) for t in (1, 2)] == down


def test_alternating_sites_that_were_away_get_both_halves() -> None:
    found = method(factors="alternate")
    assert found.sent_down(3, whole=True) == BOTH
    assert found.sent_down(0, whole=False) == BOTH


@pytest.mark.parametrize(
    ("keys", "blamed"),
    [
        ({"factors": "B"}, "merge"),
        ({"sends": "A", "merge": "fold", "rating": "none"}, "merge"),
        ({"sends": "A", "merge": "pad"}, "rating"),
        ({"sends": "none", "merge": "pad", "factors": "B", "rating": "none"}, "factors"),
        ({"trains": "weights", "merge": "pad", "sends": "none", "rating": "none"}, "trains"),
        ({"trains": "weights", "merge": "pad", "share": "norm"}, "share"),
        ({"trains": "weights", "merge": "pad", "rating": "gap"}, "rating"),
        ({"merge": "fold", "rating": "search"}, "rating"),
        ({"merge": "residual"}, "ranks"),
        ({"merge": "pad", "factors": "alternate"}, "ranks"),
        ({"merge": "pad", "norm-bound": 1.5}, "merge"),
    ],
)
def test_contradictions_are_refused(keys: dict[str, Value], blamed: str) -> None:
    with pytest.raises(UserError, match=f"^run config: {blamed}: found "):
        RunConfig.from_flat(keys)
