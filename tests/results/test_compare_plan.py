"""The TOML file of a comparison: the runs that follow from it, and mistakes in it."""

from pathlib import Path

import pytest

from common.errors import UserError
from results.compare.plan import BASE, METHOD_KEY, Job, Plan, read_plan
from strategies.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
HEAD = 'reference = "plain"\n'
ROWS = """
[rows.plain]
lambda-0 = 0.0
[rows."λ = 0.4"]
lambda-0 = 0.4
"""


def plan_of(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return read_plan(path)


def job_of(plan: Plan, row: str, seed: int = 0, setting: str = "") -> Job:
    (found,) = [j for j in plan.jobs() if (j.setting, j.row, j.seed) == (setting, row, seed)]
    return found


def test_there_is_a_run_for_every_setting_seed_and_row(tmp_path: Path) -> None:
    settings = "[settings.few]\nrounds = 2\n[settings.many]\nrounds = 9\n"
    plan = plan_of(tmp_path, f"{HEAD}seeds = [3, 5]\n{ROWS}{settings}")
    found = [(job.setting, job.seed, job.row) for job in plan.jobs()]
    assert len(set(found)) == len(found) == 2 * 2 * 3
    assert {row for _, _, row in found} == {BASE, "plain", "λ = 0.4"}
    assert {(job.setting, job.config.federation.rounds) for job in plan.jobs()} == {
        ("few", 2),
        ("many", 9),
    }
    assert job_of(plan, "λ = 0.4", 5, "few").name == "few, λ = 0.4, seed 5"


def test_a_seed_seeds_the_run_and_its_split_unless_the_keys_fix_that(tmp_path: Path) -> None:
    free = job_of(plan_of(tmp_path, f"{HEAD}seeds = [7]\n{ROWS}"), "plain", 7)
    assert (free.config.seed, free.config.data.split_seed) == (7, 7)
    fixed_text = f"{HEAD}seeds = [7]\n[keys]\nsplit-seed = 1\n{ROWS}"
    fixed = job_of(plan_of(tmp_path, fixed_text), "plain", 7)
    assert (fixed.config.seed, fixed.config.data.split_seed) == (7, 1)


def test_a_rows_keys_lie_over_the_runs_and_a_settings_over_both(tmp_path: Path) -> None:
    keys = '[keys]\nlambda-0 = 0.1\nrounds = 3\nrank = 2\n[settings.s]\nrank = 5\nmerge = "pad"\n'
    plan = plan_of(tmp_path, f"{HEAD}{keys}{ROWS}")
    config = job_of(plan, "λ = 0.4", setting="s").config
    assert (config.method.lambda_0, config.federation.rounds) == (0.4, 3)
    assert (config.model.rank, config.method.merge) == (5, "pad")
    assert job_of(plan, BASE, setting="s").config.method.lambda_0 == 0.1


def test_a_profile_lies_under_all_keys(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f'{HEAD}[keys]\nprofile = "cpu"\nrank = 3\n{ROWS}')
    config = job_of(plan, "plain").config
    assert (config.train.image_size, config.model.rank) == (128, 3)


def test_a_run_waits_for_all_its_sites(tmp_path: Path) -> None:
    job = job_of(plan_of(tmp_path, f"{HEAD}sites = 4\n{ROWS}"), "plain")
    assert (job.nodes, job.config.federation.sites, job.config.federation.min_sites) == (4, 4, 4)
    assert job_of(plan_of(tmp_path, f"{HEAD}sites = 4\n{ROWS}"), BASE).nodes == 0


def test_pooled_data_are_one_node_that_is_scored_at_all_sites(tmp_path: Path) -> None:
    job = job_of(plan_of(tmp_path, f"{HEAD}sites = 4\n{ROWS}[rows.all]\npool = true\n"), "all")
    assert (job.nodes, job.hospitals, job.config.federation.min_sites) == (1, 4, 1)


def test_methods_are_rows_of_their_name(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, f'{HEAD}methods = ["fedit", "local"]\n{ROWS}')
    assert list(plan.rows) == ["fedit", "local", "plain", "λ = 0.4"]
    assert job_of(plan, "local").keys[METHOD_KEY] == "local"


def test_paths_are_made_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of(plan_of(tmp_path, f'{HEAD}[keys]\ndata-dir = "d"\n{ROWS}'), "plain")
    assert job.keys["data-dir"] == job.config.data.data_dir == str(tmp_path / "d")
    assert Path(str(job.keys["cache-dir"])).is_absolute()


def test_inputs_are_given_only_where_a_run_names_none(tmp_path: Path) -> None:
    job = job_of(plan_of(tmp_path, f'{HEAD}[keys]\ndata-dir = "/d"\n{ROWS}'), "plain")
    given = job.given(data_dir=Path("/phantom"), base_model=Path("/base"))
    assert (given.config.data.data_dir, given.config.base_model) == ("/d", "/base")
    assert given.keys["base-model"] == "/base"


def test_the_quick_comparison_has_every_method_of_the_field() -> None:
    plan = read_plan(ROOT / "configs" / "compare-quick.toml")
    assert len(plan.rows) >= 14
    assert set(plan.rows) <= set(METHODS)
    assert plan.reference == "rate-my-lora"


MISTAKES = {
    "unknown key": ("rounds = 3", ("unknown key 'rounds'", "adapt-epochs")),
    "not a number": ('sites = "three"', ("sites", "'three'", "int")),
    "no site": ("sites = 0", ("sites", "at least 1")),
    "seeds": ("seeds = 3", ("seeds", "found 3", "list")),
    "same seeds": ("seeds = [1, 1]", ("seeds", "different")),
    "negative seed": ("seeds = [-1]", ("seeds", "at least 0")),
    "no seed": ("seeds = []", ("seeds", "at least one")),
    "true as a seed": ("seeds = [true]", ("seeds", "list")),
    "no text": ("methods = [1]", ("methods", "[1]")),
    "twice": ('methods = ["plain"]', ("rows", "'plain'", "methods too")),
    "tables": ("settings = 3", ("settings", "found 3")),
    "unknown run key": ("[keys]\nround = 3", ("base: unknown key 'round'",)),
    "type of a run key": ('[rows.bad]\nrank = "x"', ("bad: rank", "'x'")),
    "range in a setting": ("[settings.s]\nrank = 0", ("s, base: rank", "found 0")),
    "ours": ("[keys]\nseed = 3", ("keys", "'seed'", "seeds sets")),
    "a row called base": ("[rows.base]\nrank = 1", ("'base'", "own row")),
    "a long name": (f"[rows.{'x' * 61}]\nrank = 1", ("rows", "at most 60")),
    "a name of dots": ('[rows.".."]\nrank = 1', ("rows", "'..'")),
}


@pytest.mark.parametrize(("text", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        plan_of(tmp_path, f"{HEAD}{text}\n{ROWS}")
    assert str(error.value).startswith(str(tmp_path / "c.toml"))
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_a_reference_that_is_no_row_is_named_with_the_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reference: found 'rate-my-lora'.*plain, λ = 0.4"):
        plan_of(tmp_path, ROWS)


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither methods nor rows"):
        plan_of(tmp_path, "seeds = [0]")
