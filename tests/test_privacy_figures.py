"""The arithmetic of benchmarks/privacy.py, on numbers whose answer is known."""

import numpy as np
import pytest

from benchmarks.privacy import auc, likelihood

TRIALS, PATIENTS = 8, 4000


def divided(random: np.random.Generator) -> np.ndarray:
    """Return who trained by trial; trials 2k and 2k + 1 have the two halves of one division."""
    first = random.permuted(np.tile(np.arange(PATIENTS) % 2 == 0, (TRIALS // 2, 1)), axis=1)
    return np.stack([half for own in first for half in (own, ~own)])


@pytest.mark.parametrize(
    ("members", "others", "expected"),
    [([3, 4], [1, 2], 1.0), ([1, 2], [3, 4], 0.0), ([1, 1], [1, 1], 0.5), ([1, 3], [2, 4], 0.25)],
)
def test_auc_is_the_chance_that_a_member_is_higher(
    members: list[float], others: list[float], expected: float
) -> None:
    assert auc(members, others) == pytest.approx(expected)


def test_the_likelihood_finds_what_is_there_and_nothing_where_nothing_is() -> None:
    random = np.random.default_rng(0)
    member = divided(random)
    own = 10 * random.normal(size=PATIENTS)  # patients differ by more than membership changes
    noise = random.normal(size=member.shape)
    for effect, low, high in ((0.0, 0.48, 0.52), (1.0, 0.65, 1.0)):
        found = likelihood(own + noise + effect * member, member)
        aucs = [auc(row[m], row[~m]) for row, m in zip(found, member, strict=True)]
        assert low < np.mean(aucs) < high
