"""The comparisons that docs/results.md is made of can be run."""

from pathlib import Path

import pytest

from results.compare.plan import read_plan

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.glob("compare-*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_ready_comparison_is_one(path: Path) -> None:
    plan = read_plan(path)
    jobs = list(plan.jobs())
    assert len(jobs) == len(plan.settings) * len(plan.seeds) * (1 + len(plan.rows))
    assert len({job.name for job in jobs}) == len(jobs)
