"""The report in a browser: nothing is missing, nothing is cut off, everything can be read."""

import base64
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from results.report.page import RunReport, build_page
from results.report.patients import Picture
from tests.results.report_samples import make_patients, make_run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, BROWSERS) if path), None)
LAUNCH = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
LEAST_TEXT_PX = 12

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")

TEXT_SIZES = """() => {
  const sizes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.getClientRects().length) continue;
    const scale = element.ownerSVGElement ? element.getScreenCTM().a : 1;
    sizes.push([parseFloat(getComputedStyle(element).fontSize) * scale, element.textContent]);
  }
  return sizes;
}"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with all that a page can have, its names as long as they come."""
    long = "Hospital-of-the-very-long-name-" * 3
    gains = {"GE": 0.2, "Philips": -0.05, long: 0.1}
    curve = [0.5, *(0.6 + 0.02 * t for t in range(10))]
    run = make_run(dict.fromkeys(gains, curve), {2: ("GE",)}, gains, Path("run"))
    history: list[Any] = list(run.history)
    history[3]["refused"] = [{"site": long, "phase": "train", "reason": "x" * 400}]
    own = {site: dict.fromkeys(gains, 0.7) for site in gains}
    patients = make_patients(gains, own, [(2, 0.7, 0.6), (10, 0.8, 0.5)])
    patients = replace(patients, pictures=[Picture(s, "001", "ES", noise_png()) for s in gains])
    report = RunReport(replace(run, history=history), patients)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(build_page([report, replace(report, patients=None)]), encoding="utf-8")
    return path


def noise_png() -> str:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (80, 240, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(LAUNCH))
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_whole_and_legible(browser: Any, page_file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")

    assert problems == []
    assert [url for url in requests if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    widths = page.evaluate("[...document.images].map(i => i.complete ? i.naturalWidth : 0)")
    assert widths == [240] * 3
    sizes = page.evaluate(TEXT_SIZES)
    assert len(sizes) > 400
    assert [text for size, text in sizes if size < LEAST_TEXT_PX] == []
    assert colors_by_region(page.screenshot(full_page=True)).min() >= 8
    page.close()


def colors_by_region(png: bytes) -> np.ndarray:
    """Return the number of colours in each of eight bands of a screenshot."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.uint32)
    codes = pixels @ np.array([65536, 256, 1], dtype=np.uint32)  # (h, w, 3) -> (h, w)
    return np.array([len(np.unique(band)) for band in np.array_split(codes, 8)])
