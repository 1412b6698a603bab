"""Tables, csv files and pictures of comparisons whose runs are made up."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from matplotlib.container import ErrorbarContainer
from PIL import Image
from rich.console import Console
from scipy.stats import wilcoxon

from common.errors import UserError
from common.model import file_sha256
from results.compare.figures import across_settings
from results.compare.folder import JobFolder
from results.compare.plan import BASE, Plan, read_plan
from results.compare.result_tables import site_rows
from results.compare.row_results import RowResult, collect, patient_test, site_results
from results.compare.write_results import write_results

SITES = ("A", "B")
KEYS = 'features = "4,4,8,8,8,4"\nrank = 2\nrounds = 2\n'
TEXT = f"""
seeds = [0, 1]
sites = 2
reference = "ours"
[keys]
{KEYS}
[rows.ours]
[rows.other]
merge = "pad"
[rows."own | <b>"]
lambda-0 = 0.0
"""


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    path = tmp_path / "c.toml"
    path.write_text(TEXT)
    return read_plan(path)


def line(model: str, origin: str, site: str, patient: str, dice: float, **more: Any) -> Any:
    values = {"LV": dice, "MYO": dice, "RV": dice}
    where = {"model": model, "origin": origin, "site": site, "patient": patient}
    return {**where, "frame": "ED", "dice": values, **more}


def merged(dice: Mapping[str, float], patients: int = 4) -> Iterator[Any]:
    """Yield scores of a merged model that depend on the patient a little."""
    for site, value in dice.items():
        for n in range(patients):
            distance = {"LV": 2.0, "MYO": 4.0, "RV": None}
            yield line("merged", "", site, f"{site}{n}", value + n / 500, hd95_mm=distance)


def fabricate(folder: JobFolder, lines: Iterator[Any] | list[Any], **entry: int) -> None:
    """Write all that a finished and evaluated run leaves."""
    folder.prepare()
    if folder.job.row != BASE:
        entry = {"bytes_up": 1000, "bytes_down": 2000} | entry
        rounds = [{"round": 0, "lambda": 0, "seconds": {}, "refused": [],
                   "sites": {site: {"validation": 0.1} for site in SITES}}]  # fmt: skip
        for t in (1, 2):
            sites: dict[str, Any] = {site: {**entry, "validation": 0.3 * t} for site in SITES}
            rounds.append({**rounds[0], "round": t, "sites": sites})
        folder.run.history.write_text("".join(json.dumps(r) + "\n" for r in rounds))
        folder.run.config.write_text(tomli_w.dumps(folder.job.config.to_flat()))
        folder.run.summary.write_text('{"sites": {}}')
        status = {"rounds": 2, "round": 2, "state": "finished"}
        folder.run.status.write_text(json.dumps(status))
    folder.scores.write_text("".join(json.dumps(value) + "\n" for value in lines))
    folder.evaluation.write_text(json.dumps({"adapt_epochs": 1}))


def folders_of(plan: Plan, out: Path) -> dict[tuple[str, int], JobFolder]:
    return {(job.row, job.seed): JobFolder(job, out) for job in plan.jobs()}


def rows_of(plan: Plan, folders: Mapping[tuple[str, int], JobFolder]) -> dict[str, RowResult]:
    return {row.row: row for row in collect(plan, list(folders.values()))}


def test_in_client_is_the_mean_of_sites_and_its_deviation_that_of_seeds(
    plan: Plan, tmp_path: Path
) -> None:
    folders = folders_of(plan, tmp_path)
    for seed, dice in enumerate((0.6, 0.8)):
        few = merged({"A": dice}, patients=1)
        fabricate(folders["ours", seed], [*few, *merged({"B": 0.4}, patients=3)])
    ours = rows_of(plan, folders)["ours"]
    assert ours.in_client["mean"].mean == pytest.approx((0.6 + 0.8) / 4 + 0.402 / 2)
    assert ours.in_client["mean"].sd == pytest.approx(0.1 / math.sqrt(2))
    assert ours.in_client["LV"].mean == pytest.approx(ours.in_client["mean"].mean)
    assert ours.hd95_mm.mean == pytest.approx(3.0)  # what is unknown counts for nothing
    assert ours.cross_client.mean == pytest.approx(ours.in_client["mean"].mean)


def test_a_personal_model_takes_the_place_of_the_merged_one(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    personal = [
        line("personal", origin, site, site, 0.9 if origin == site else 0.3)
        for origin in SITES
        for site in SITES
    ]
    fabricate(folders["ours", 0], [*merged({"A": 0.5, "B": 0.5}), *personal])
    ours = rows_of(plan, folders)["ours"]
    assert ours.in_client["mean"].mean == pytest.approx(0.9)
    assert ours.cross_client.mean == pytest.approx(0.3)


def test_adapted_models_count_at_their_own_site_alone(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    adapted = [line("adapted", "A", "A", "A0", 0.8), line("adapted", "A", "B", "B0", 0.1)]
    fabricate(folders["ours", 0], [*merged({"A": 0.5, "B": 0.5}), *adapted])
    assert rows_of(plan, folders)["ours"].adapted.mean == pytest.approx(0.8)


def test_bytes_are_of_all_sites(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    fabricate(folders["ours", 0], merged({"A": 0.5, "B": 0.5}))
    ours = rows_of(plan, folders)["ours"]
    assert (ours.up, ours.down, ours.in_all) == (2000, 4000, 12000)


def test_pairs_of_the_test_are_patients_in_seeds_that_both_rows_have(
    plan: Plan, tmp_path: Path
) -> None:
    folders = folders_of(plan, tmp_path)
    gains = np.array([0.05, -0.01, 0.02, 0.04, 0.03, 0.06, 0.01, 0.08])
    names = [f"p{n}" for n in range(8)]
    for seed in (0, 1):
        theirs = [line("merged", "", "A", name, 0.5) for name in names]
        fabricate(folders["ours", seed], theirs)
    better = [line("merged", "", "A", n, 0.5 + g) for n, g in zip(names, gains, strict=True)]
    fabricate(folders["other", 0], better)  # seed 1 is missing
    rows = rows_of(plan, folders)
    test = patient_test(rows["other"], rows["ours"])
    assert test.patients == 8
    assert test.p == pytest.approx(wilcoxon(gains, alternative="two-sided").pvalue)
    assert patient_test(rows["ours"], rows["ours"]).p == 1


def test_too_few_patients_are_not_tested(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    for row, dice in (("ours", 0.5), ("other", 0.6)):
        fabricate(folders[row, 0], merged({"A": dice}, patients=5))
    rows = rows_of(plan, folders)
    test = patient_test(rows["other"], rows["ours"])
    assert math.isnan(test.p)
    assert test.patients == 5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of results where a run failed and others were never begun."""
    tmp_path = tmp_path_factory.mktemp("written")
    (tmp_path / "c.toml").write_text(TEXT)
    plan = read_plan(tmp_path / "c.toml")
    folders = folders_of(plan, tmp_path)
    for seed in (0, 1):
        scores = merged({"A": 0.2, "B": 0.3})
        fabricate(folders[BASE, seed], [{**value, "model": "base"} for value in scores])
        fabricate(folders["ours", seed], merged({"A": 0.7, "B": 0.8}))
    fabricate(folders["other", 1], merged({"A": 0.6, "B": 0.6}), bytes_up=0, bytes_down=0)
    folders["other", 0].prepare()
    folders["other", 0].fail("run", "site A: no such file | <x>")
    console = Console(width=100, quiet=True)
    assert write_results(plan, list(folders.values()), tmp_path, console) is True
    return tmp_path


def test_missing_runs_are_shown_with_their_seeds_and_reasons(written: Path) -> None:
    text = (written / "results.md").read_text()
    first, by_site = text.split("Site by site:\n")
    rows = {r.split("|")[1].strip(): r for r in first.splitlines() if r.startswith("|")}
    assert "1 of 2 seeds (missing: 0)" in rows["other"]
    assert "- other, seed 0: run failed: site A: no such file \\| &lt;x>" in text
    assert "- own \\| &lt;b>, seed 1: not begun" in text
    assert "0.500 |" not in rows["other"]
    assert "0.603 |" in rows["other"]  # of the seed that is there, without a deviation
    assert "0.753 ± 0.000" in rows["ours"]
    for part in (first, by_site):
        lines = [r.replace("\\|", "") for r in part.splitlines() if r[:1] == "|"]
        assert len({len(r.split("|")) for r in lines}) == 1


def test_the_csv_files_hold_every_row_and_every_score(written: Path) -> None:
    with (written / "results.csv").open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert list(rows) == [BASE, "ours", "other", "own | <b>"]
    assert float(rows["ours"]["dice_mean"]) == pytest.approx(0.753)
    assert (rows["other"]["seeds_done"], rows["other"]["seeds_missing"]) == ("1", "0")
    assert (rows["own | <b>"]["dice_mean"], rows["ours"]["p"]) == ("", "")
    assert float(rows[BASE]["p"]) < 0.05
    with (written / "results-long.csv").open(newline="") as file:
        scores = list(csv.DictReader(file))
    assert len(scores) == 5 * 8 * 3
    assert {row["hd95_mm"] for row in scores if row["structure"] == "RV"} == {""}


def test_the_pictures_are_there_and_linked(written: Path) -> None:
    text = (written / "results.md").read_text()
    pictures = sorted((written / "plots").glob("*.png"))
    assert len(pictures) == 5
    for path in pictures:
        assert f"(plots/{path.name})" in text
        with Image.open(path) as image:
            assert len(np.unique(np.asarray(image.convert("L")))) > 20


def test_settings_are_drawn_side_by_side_as_far_as_they_have_runs(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(TEXT + '[settings.few]\n[settings."many | more"]\nrank = 3\n')
    plan = read_plan(path)
    folders = {(job.setting, job.row, job.seed): JobFolder(job, tmp_path) for job in plan.jobs()}
    for setting, dice in (("few", 0.6), ("many | more", 0.7)):
        for seed in (0, 1):
            fabricate(folders[setting, "ours", seed], merged({"A": dice + seed / 10, "B": 0.5}))
    own = (line("personal", "A", site, f"{site}0", 0.8 if site == "A" else 0.4) for site in SITES)
    fabricate(folders["few", "other", 0], list(own))
    rows = collect(plan, list(folders.values()))
    axes = across_settings(rows, list(plan.settings)).axes
    home, elsewhere = (
        {bars.get_label(): bars.lines[0].get_ydata() for bars in drawn}
        for drawn in ([c for c in a.containers if isinstance(c, ErrorbarContainer)] for a in axes)
    )
    assert home["ours"] == pytest.approx([0.578, 0.628])
    assert home["other"] == pytest.approx([0.8])
    assert elsewhere["other"] == pytest.approx([0.4])
    assert np.size(home[BASE]) == 0
    write_results(plan, list(folders.values()), tmp_path, Console(quiet=True))
    assert "(plots/across-settings.png)" in (tmp_path / "results.md").read_text()
    assert (tmp_path / "plots" / "across-settings.png").is_file()


def test_a_damaged_file_of_scores_is_named(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    fabricate(folders["ours", 0], merged({"A": 0.5}))
    folders["ours", 0].scores.write_text('{"model": "merged"')
    with pytest.raises(UserError, match=r"scores.jsonl: damaged"):
        rows_of(plan, folders)


# --- folders


def test_a_run_is_done_when_it_was_evaluated_with_the_same_adaptation(
    plan: Plan, tmp_path: Path
) -> None:
    folder = folders_of(plan, tmp_path)["ours", 0]
    assert (folder.standing(), folder.evaluated(1)) == ("not begun", False)
    fabricate(folder, merged({"A": 0.5}))
    assert folder.evaluated(1)
    assert not folder.evaluated(2)
    folder.evaluation.unlink()
    assert (folder.standing(), folder.evaluated(1)) == ("not evaluated yet", False)
    folder.run.status.write_text(json.dumps({"rounds": 4, "round": 3}))
    assert folder.standing() == "stopped in round 3 of 4"


def test_a_run_goes_on_where_it_has_a_checkpoint(plan: Plan, tmp_path: Path) -> None:
    folder = folders_of(plan, tmp_path)["ours", 0]
    folder.prepare()
    assert "resume = false" in folder.keys.read_text()
    folder.run.checkpoint.write_bytes(b"")
    folder.fail("run", "stopped")
    folder.prepare()
    assert "resume = true" in folder.keys.read_text()
    assert not folder.failure.exists()


@pytest.mark.parametrize(
    ("key", "changes"),
    [("threads = 2", False), ("local-validation = true", False), ("rank = 3", True)],
)
def test_a_run_made_with_other_keys_is_not_mixed_in(
    plan: Plan, tmp_path: Path, key: str, changes: bool
) -> None:
    begin(folders_of(plan, tmp_path)["ours", 0])
    plan.path.write_text(TEXT.replace("[rows.ours]", f"[rows.ours]\n{key}"))
    now = folders_of(read_plan(plan.path), tmp_path)["ours", 0]
    if not changes:
        now.check_keys()
        return
    with pytest.raises(UserError, match=r"ours/seed-0: made with rank = 2, found 3 now"):
        now.check_keys()


def begin(folder: JobFolder, **changed: str | int) -> None:
    """Leave what a run writes when it starts."""
    folder.prepare()
    flat = folder.job.config.to_flat() | {k.replace("_", "-"): v for k, v in changed.items()}
    folder.run.config.write_text(tomli_w.dumps(flat))


def test_a_run_from_another_base_or_profile_is_not_mixed_in(tmp_path: Path) -> None:
    base = tmp_path / "base.safetensors"
    base.write_bytes(b"one")
    path = tmp_path / "plan.toml"
    path.write_text(TEXT.replace("[keys]", f'[keys]\nprofile = "small"\nbase-model = "{base}"'))
    folder = folders_of(read_plan(path), tmp_path)["ours", 0]
    begin(folder, base_sha256=file_sha256(base))
    folder.check_keys()
    base.write_bytes(b"two")
    with pytest.raises(UserError, match="made with base-sha256"):
        folder.check_keys()
    begin(folder, image_size=96)  # as if the profile had been another one then
    with pytest.raises(UserError, match="made with image-size = 96, found 64 now"):
        folder.check_keys()


def test_names_make_folders_of_their_own(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    paths = {folder.path for folder in folders.values()}
    assert len(paths) == len(folders)
    assert all(path.parent.parent == tmp_path / "runs" for path in paths)


def test_site_by_site_says_who_was_penalised_and_by_how_much(plan: Plan, tmp_path: Path) -> None:
    folders = folders_of(plan, tmp_path)
    lasts = [line("last local", site, site, site, 0.7 if site == "A" else 0.2) for site in SITES]
    fabricate(folders["ours", 0], [*merged({"A": 0.5, "B": 0.6}, patients=1), *lasts])
    history = folders["ours", 0].run.history
    lines = [json.loads(text) for text in history.read_text().splitlines()]
    for number, penalty in ((1, 1.0), (2, 0.8)):
        lines[number]["sites"]["A"] |= {"penalty": penalty, "removed": (1 - penalty) / 2}
        lines[number]["sites"]["B"] |= {"penalty": 1.0, "removed": -(1 - penalty) / 2}
    history.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    found = site_results(rows_of(plan, folders)["ours"])
    assert (found["A"].penalised, found["B"].penalised) == (0.5, 0.0)
    assert found["A"].removed == pytest.approx(0.1)
    assert math.isnan(found["B"].removed)
    assert found["A"].last_local.mean == pytest.approx(0.7)
    assert found["B"].last_local.mean == pytest.approx(0.2)
    assert found["B"].dice["mean"].mean == pytest.approx(0.6)
    head, first, *_ = site_rows([rows_of(plan, folders)["ours"]])
    assert dict(zip(head, first, strict=True))["rounds penalised"] == "50%"
