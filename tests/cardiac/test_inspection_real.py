"""Real data is found clean, and what is planted in its labels is found."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cardiac.datasets import ACDC_LABELS, MNMS_LABELS, read_cases
from cardiac.inspection.case import inspect_case
from cardiac.inspection.inspect import inspect_folder

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

pytestmark = [
    pytest.mark.data,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"the data sets are not in {DATA}"),
]


@pytest.mark.parametrize(("name", "other"), [("acdc", MNMS_LABELS), ("mnms", ACDC_LABELS)])
def test_cases_are_clean_and_read_with_the_other_numbers_they_are_not(
    name: str, other: dict[int, int]
) -> None:
    cases = read_cases(DATA / name)
    for index in np.linspace(0, len(cases) - 1, 12).astype(int):
        case = cases[index]
        assert inspect_case(case, pictures=False).findings == [], case.name
        renumbered = inspect_case(replace(case, label_map=other), pictures=False)
        assert [f.code for f in renumbered.findings] == ["label-numbering"], case.name


def test_the_published_sample_is_clean_but_too_small_for_a_site() -> None:
    inspection = inspect_folder(DATA / "mnms2_sample", pictures=True)
    assert [finding.code for finding in inspection.findings] == ["site-small"]
    assert [row.scanner for row in inspection.scanners] == ["SIGNA EXCITE 1.5"]
