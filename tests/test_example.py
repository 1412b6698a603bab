"""The example in the README trains a federation on the phantom, as it stands there."""

import re
import sys
from pathlib import Path

import pytest

from client_app.demo import PHANTOM_VERSION
from tests.test_simulation import ROOT, finish, start

MARK = "<!-- tests/test_example.py runs this block -->\n```python\n"


@pytest.mark.slow
def test_the_example_trains_three_sites(
    phantom_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (ROOT / "README.md").read_text(encoding="utf-8").split(MARK)[1].split("```")[0]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    cache = tmp_path / "runs" / "cache"
    cache.mkdir(parents=True)
    (cache / f"phantom-{PHANTOM_VERSION}").symlink_to(phantom_dir)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=":")

    status, output = finish(start([sys.executable, "example.py"], tmp_path))
    assert status == 0, output
    scores = re.findall(r"^(\w+): LV (0\.\d+) -> (0\.\d+)$", output, re.MULTILINE)
    assert [site for site, _, _ in scores] == ["GE", "Philips", "Siemens"], output
    assert any(base != merged for _, base, merged in scores)
