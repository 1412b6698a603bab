"""The page shows what a run's folder holds, finished or not, and needs nothing else."""

import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.config import RunConfig
from common.errors import UserError
from results.report import overview, site_scores
from results.report.find_patients import find_inputs
from results.report.page import RunReport, build_page
from results.report.page_tables import Palette
from results.report.patients import Measured, Patients, worst
from results.report.runs_side_by_side import differing_keys, run_names
from results.run_reader import RunFiles, read_run
from server_app.run_config import resolve_run
from tests.results.report_samples import CALM, make_patients, make_run, write_run

GAINS = {"GE": 0.2, "Siemens": 0.25}
OWN = {"GE": {"GE": 0.8, "Siemens": 0.7}, "Siemens": {"GE": 0.71, "Siemens": 0.85}}
ROUNDS = [(5, 0.7, 0.6), (10, 0.8, 0.65)]


class Page(HTMLParser):
    """What a browser would fetch, and the text that it would show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data", "xlink:href") or (name == "href" and tag != "a"):
                self.fetched.append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def full_report(path: Path = Path("run")) -> RunReport:
    return RunReport(make_run(gains=GAINS, path=path), make_patients(GAINS, OWN, ROUNDS))


def test_a_whole_run_has_every_section() -> None:
    page = Page(build_page([full_report()]))
    for part in (
        "2 gained (GE and Siemens), 0 lost",
        "4 test patients (8 volumes); 4 of them did better",
        "None of the known signatures",
        "0.600 → 0.800",
        "on each site's patients",
        "Round by round",
        "Every site answered in every round",
        "LV 0.700 (base 0.500)",
        "flower-simulation --app . --num-supernodes 2",
        "split-seed",
        "handle it like the data",
    ):
        assert part in " ".join(page.text.split()), part
    assert page.tags.count("img") == 2
    assert page.tags.count("svg") == 6 + 1 + 2 + 3  # scores, in and cross, validation, rounds


@pytest.fixture(scope="module")
def two_runs() -> str:
    """Return the page of two whole runs."""
    return build_page([full_report(Path("a")), full_report(Path("b"))])


def test_nothing_is_fetched_and_nothing_runs(two_runs: str) -> None:
    page = Page(two_runs)
    assert page.fetched
    assert [value for value in page.fetched if not value.startswith(("data:", "#"))] == []
    assert "script" not in page.tags
    assert set(re.findall(r"https?://[^\s\"<]+", two_runs)) == {"https://arxiv.org/abs/2501.03223"}
    assert not re.search(r"url\((?!#)|@import", two_runs)


def test_ids_of_figures_do_not_clash(two_runs: str) -> None:
    clips = re.findall(r'<clipPath id="([^"]+)"', two_runs)
    assert len(set(clips)) == len(clips) > 20
    used = set(re.findall(r'xlink:href="#([^"]+)"', two_runs))
    assert [name for name in used if two_runs.count(f'id="{name}"') != 1] == []


@pytest.mark.parametrize("lines", [0, 1, 2, 6])
def test_an_unfinished_run_shows_what_is_there(tmp_path: Path, lines: int) -> None:
    run = make_run(path=tmp_path / "run")
    path = write_run(replace(run, history=run.history[:lines]))
    page = Page(build_page([RunReport(read_run(path))]))
    assert f"not finished: {max(0, lines - 1)} of 10 rounds" in page.text
    assert "There are no test scores" in page.text
    assert ("No round is finished yet" in page.text) is (lines == 0)
    assert ("Up to round 5 the mean validation Dice" in page.text) is (lines == 6)


def test_a_site_that_failed_in_the_end_leaves_the_others_shown() -> None:
    run = make_run(gains={"GE": 0.2})
    html = build_page([RunReport(run)])
    assert "averaged over 1 site" in html
    assert "– → –" in html


def test_without_images_the_page_says_what_is_hidden_and_why() -> None:
    page = Page(build_page([RunReport(make_run(gains=GAINS), missing="a reason of its own")]))
    assert "Only the sites' own means are known (a reason of its own)" in page.text
    assert "A mean hides single patients" in page.text
    assert "img" not in page.tags
    assert "handle it like the data" not in page.text


EVIL = "<script>alert(1)</script>&\"' $\\frac{ 心"


def test_names_and_reasons_from_other_machines_stay_text() -> None:
    gains = {EVIL: 0.2, "GE": -0.1}
    run = make_run({EVIL: CALM["GE"], "GE": CALM["Siemens"]}, {3: (EVIL,)}, gains)
    history: list[Any] = list(run.history)
    for line in history[1:]:
        line["refused"] = [{"site": EVIL, "phase": "<b>", "reason": "<img src=x onerror=y>"}]
    patients = make_patients(gains, {s: dict.fromkeys(gains, 0.7) for s in gains}, ROUNDS)
    report = RunReport(replace(run, history=history), patients)
    html = build_page([report, report])
    page = Page(html)
    assert "script" not in page.tags
    assert page.tags.count("img") == 4
    assert EVIL in page.text
    assert "<img src=x" not in html
    assert "onerror=y>" not in html


def test_a_refusal_is_listed_with_its_round() -> None:
    run = make_run(gains=GAINS)
    history: list[Any] = list(run.history)
    history[4]["refused"] = [{"site": "GE", "phase": "train", "reason": "adapter of rank 9"}]
    page = Page(build_page([RunReport(replace(run, history=history))]))
    assert re.search(r"4\s*GE\s*train\s*adapter of rank 9", page.text)


def test_several_runs_are_compared_by_what_differs(tmp_path: Path) -> None:
    one = make_run(gains=GAINS, path=tmp_path / "a" / "x", lambda_0=0.2, run_dir="runs/1")
    two = make_run(gains={"GE": 0.1}, path=tmp_path / "b" / "x", lambda_0=0.0, run_dir="runs/2")
    assert run_names([one, two]) == ["a/x", "b/x"]
    assert len(set(run_names([one, one]))) == 2
    table = differing_keys({"one": one, "two": two})
    assert [[cell.text for cell in row] for row in table.rows] == [["lambda-0", "0.2", "0.0"]]
    html = build_page([RunReport(one), RunReport(two)])
    assert '<td class="strong">0.8000</td>' in html  # the better Dice of GE
    same = build_page([RunReport(one), RunReport(one)])
    assert '<td class="strong">0.8' not in same.split("<article")[0]
    assert html.count("<article") == 2
    assert len(re.findall(r'id="run-2-[a-z]+"', html)) == 7


@pytest.mark.parametrize(
    "keys",
    [
        {"split_by": "A column", "learning_rate": 1e-5, "augment": False, "resume": True},
        {"profile": "cpu", "image_size": 96},
        {"preset": "flora", "merge": "fold", "share": "site", "rating": "none"},
    ],
    ids=["keys", "profile", "preset"],
)
def test_the_command_gives_the_same_configuration(keys: dict[str, Any]) -> None:
    run = make_run(gains=GAINS, **keys)
    command = overview.commands(run)[0][1]
    words = command.split("--run-config ")[1].strip("'")
    typed = tomllib.loads(re.sub(r" (?=[a-z0-9-]+=)", "\n", words))
    fused = {**RunConfig().to_flat(), **typed}
    again, before = resolve_run(fused, typed).to_flat(), run.config.to_flat()
    given = {"run-dir", *(key for key in ("resume", "profile") if key in keys)}
    assert {key for key in before if again[key] != before[key]} == given
    assert again["run-dir"] != before["run-dir"]


def test_scores_that_do_not_fit_the_run_are_called_out() -> None:
    run = make_run(gains=GAINS)
    assert site_scores.disagreement(run, make_patients(GAINS)) == ""
    other = site_scores.disagreement(run, make_patients({"GE": 0.2, "Siemens": 0.1}))
    assert "at Siemens the mean Dice of the result differs by 0.150" in other
    assert "Check the data" in build_page([RunReport(run, make_patients({"GE": 0.0}))])


def test_the_matrix_has_own_adapters_between_base_and_result() -> None:
    report = full_report()
    assert report.patients is not None
    table = site_scores.matrix(report.run, report.patients, Palette(report.run.sites))
    assert table is not None
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["base model", "0.600", "0.600", "0.600"],
        ["GE", "0.800", "0.700", "0.750"],
        ["Siemens", "0.710", "0.850", "0.780"],
        ["result", "0.800", "0.850", "0.825"],
    ]


def test_patients_survive_json_with_what_is_missing() -> None:
    patients = make_patients(GAINS, OWN, ROUNDS)
    hole = Measured((math.nan, 0.5, 0.7), (math.nan, 3.0, 4.0))
    patients = replace(patients, cases=[replace(patients.cases[0], result=hole), *patients.cases])
    again = Patients.from_json(patients.to_json())
    assert again.to_json() == patients.to_json()
    assert again.cases[0].result.value("dice", "mean") == pytest.approx(0.6)
    assert math.isnan(again.cases[0].result.value("hd95_mm", "LV"))


def test_a_patient_is_one_point_whatever_its_frames() -> None:
    patients = make_patients(GAINS)
    assert [p for p, _, _ in patients.pairs("GE", "dice", "mean")] == ["001", "002"]
    assert patients.pairs("GE", "dice", "LV")[0][1:] == pytest.approx((0.5, 0.7))


def test_the_worst_cases_come_from_every_site() -> None:
    chosen = worst(make_patients(GAINS).cases, per_site=1, most=12)
    assert [case.site for case in chosen] == ["GE", "Siemens"]
    assert {case.patient for case in chosen} == {"001"}


Spoil = Callable[[Path], object]
BROKEN: dict[str, tuple[str, Spoil, str]] = {
    "no config": ("config.toml", Path.unlink, "expected the folder of a run"),
    "unknown key": ("config.toml", lambda p: p.write_text("colour = 3"), "unknown key 'colour'"),
    "half a line": ("history.jsonl", lambda p: p.write_text('{"round": 1\n'), "line 1 is damaged"),
    "another line": (
        "history.jsonl",
        lambda p: p.write_text("[]\n"),
        "line 1 does not describe a round",
    ),
    "half a summary": ("summary.json", lambda p: p.write_text("{"), "not JSON"),
    "text for Dice": (
        "history.jsonl",
        lambda p: p.write_text('{"round": 0, "sites": {"GE": {"validation": "0.5"}}}\n'),
        "line 1 does not describe a round",
    ),
    "a refusal without a reason": (
        "history.jsonl",
        lambda p: p.write_text('{"round": 0, "sites": {}, "refused": [{"site": "GE"}]}\n'),
        "line 1 does not describe a round",
    ),
    "a number for an audit log's hash": (
        "history.jsonl",
        lambda p: p.write_text('{"round": 0, "sites": {}, "audit": {"GE": 7}}\n'),
        "line 1 does not describe a round",
    ),
    "text for a test score": (
        "summary.json",
        lambda p: p.write_text('{"sites": {"GE": {"test": {"dice": {"LV": "high"}}}}}'),
        "something other than test scores",
    ),
    "another summary": ("summary.json", lambda p: p.write_text("[]"), "has no 'sites'"),
}


@pytest.mark.parametrize(("name", "spoil", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named(tmp_path: Path, name: str, spoil: Spoil, message: str) -> None:
    path = write_run(make_run(gains=GAINS, path=tmp_path / "run"))
    assert isinstance(read_run(path), RunFiles)
    spoil(path / name)
    with pytest.raises(UserError, match=re.escape(message)) as error:
        read_run(path)
    assert str(path) in str(error.value)


def test_what_a_private_site_spent_is_in_the_table_of_sites() -> None:
    run = make_run(gains=GAINS)
    run.history[-1]["sites"]["GE"] |= {"epsilon": 3.456, "delta": 0.01}
    table = overview.sites_table(run, Palette(run.sites), None)
    assert table.head[-1] == "ε spent"
    assert [row[-1].text for row in table.rows] == ["3.46 (δ 0.01)", "–"]


def test_a_deployed_runs_split_is_not_that_of_its_configuration() -> None:
    run = make_run(split_seed=7, data_dir="/srv/heart")
    assert "split seed 7" in dict(overview.facts(run))["Data"]
    lines = [{**line, "audit": {"GE": "a" * 64}} for line in run.history]
    deployed = replace(run, history=lines)
    data = dict(overview.facts(deployed))["Data"]
    assert data.startswith("each site's own folder, split by the site's own settings")
    assert "7" not in data
    assert "by its own settings" in str(find_inputs(deployed, None, None))
    assert "has no adapter yet" in str(find_inputs(run, None, None))
