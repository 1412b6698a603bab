"""A site's own configuration is checked, and its limits hold."""

from pathlib import Path

import pytest

from cardiac.splits import Cohorts
from client_app.settings import LimitError, SiteSettings
from common import messages
from common.config import RunConfig
from common.errors import UserError
from common.options import Value


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("max-rank", -1, "expected at least 0"),
        ("max-rank", "16", "expected a int"),
        ("max-local-epochs", 1.5, "expected a int"),
        ("serves", "train,everything", "serves: found 'everything'"),
        ("serves", "", "serves: found '', expected some of train, validate, test"),
        ("serves", " , ", "serves: found ' , ', expected some of"),
        ("data-dir", 3, "expected a str"),
        ("max-ranks", 3, "unknown key 'max-ranks'"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Value, words: str) -> None:
    with pytest.raises(UserError, match=r"^node config: ") as error:
        SiteSettings.from_node({"site": "GE", key: value})
    assert words in str(error.value)
    assert key in str(error.value)


def test_the_sites_own_facts_take_the_place_of_the_runs() -> None:
    run = RunConfig.from_flat(
        {
            "data-dir": "/run",
            "base-model": "/run.b",
            "split-by": "CENTRE",
            "affine-axes": "RAS",
            "split-seed": 3,
        }
    )
    own = SiteSettings.from_node({"site": "GE", "data-dir": "/own", "cache-dir": "/own/c"})
    data = own.applied(run).data
    assert (data.data_dir, data.cache_dir) == ("/own", "/own/c")
    assert own.applied(run).base_model == ""
    assert (data.split_by, data.affine_axes, data.split_seed) == ("VENDOR", "LPS", 0)
    named: dict[str, Value] = {"split-by": "CENTRE", "affine-axes": "RAS", "split-seed": 8}
    data = SiteSettings.from_node({"site": "GE", **named}).applied(RunConfig()).data
    assert (data.split_by, data.affine_axes, data.split_seed) == ("CENTRE", "RAS", 8)


def test_in_a_simulation_the_run_says_where_the_data_are() -> None:
    run = RunConfig.from_flat({"data-dir": "/run", "base-model": "/run.b"})
    assert SiteSettings.from_node({"partition-id": 0}).applied(run) == run


def test_limits_hold_for_what_they_are_about_and_nothing_else() -> None:
    config = RunConfig.from_flat({"local-epochs": 3})
    settings = SiteSettings.from_node({"site": "GE", "max-rank": 8, "max-local-epochs": 3})
    settings.check(messages.TRAIN, config, 8)
    settings.check(messages.TEST, config, 32)
    settings.check(messages.DESCRIBE, config, 0)
    with pytest.raises(LimitError, match="rank 9 is asked, this site allows 8"):
        settings.check(messages.TRAIN, config, 9)
    with pytest.raises(LimitError, match="4 epochs are asked, this site allows 3"):
        settings.check(messages.TRAIN, RunConfig.from_flat({"local-epochs": 4}), 8)


def test_all_weights_leave_only_where_the_site_says_so() -> None:
    config = RunConfig.from_flat({"trains": "weights", "merge": "pad", "rating": "none"})
    SiteSettings.from_node({"partition-id": 0}).check(messages.TRAIN, config, 0)
    SiteSettings.from_node({"site": "GE", "whole-weights": True}).check(messages.TRAIN, config, 0)
    with pytest.raises(LimitError, match="this site sends adapters alone"):
        SiteSettings.from_node({"site": "GE"}).check(messages.TRAIN, config, 0)


def test_an_error_begins_with_where_the_value_comes_from() -> None:
    for node in ({"site": "GE", "max-rank": -1}, {"partition-id": -1}, {"colour": 1}, {}):
        with pytest.raises(UserError, match=r"^site\.toml: "):
            SiteSettings.from_node(node, "site.toml")  # type: ignore[arg-type]


def test_the_audit_log_is_where_it_is_said_or_in_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/anna")
    kept = SiteSettings(name="GE", cache_dir="~/cache")
    assert kept.audit_path() == Path("/home/anna/cache/audit-GE.jsonl")
    said = SiteSettings(name="GE", cache_dir="/cache", audit_log="~/log.jsonl")
    assert said.audit_path() == Path("/home/anna/log.jsonl")


@pytest.mark.parametrize("name", ["A\nB", "x" * 101, " ", "\x1b[2K"])
def test_a_name_that_no_server_takes_is_refused_at_the_site(name: str) -> None:
    with pytest.raises(UserError, match="the name of this site's data, 1 to 100 printable letters"):
        SiteSettings.from_node({"site": name})


def test_the_audit_log_of_a_long_name_can_be_made(tmp_path: Path) -> None:
    names = [SiteSettings.from_node({"site": "東" * 99 + end}).audit_name() for end in "京都"]
    for name in names:
        (tmp_path / name).touch()
    assert len(set(names)) == 2


def test_an_audit_log_stays_in_its_folder_whatever_the_site_is_called() -> None:
    name = SiteSettings.from_node({"site": "../St. Anna/GE"}).audit_name()
    assert Path(name).name == name


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pool", True),
        ("train-patients", 1),
        ("val-patients", 2),
        ("validate-on", "DISEASE=HCM"),
    ],
)
def test_no_run_chooses_a_hospitals_patients(key: str, value: Value) -> None:
    config = RunConfig.from_flat({key: value})
    SiteSettings.from_node({"partition-id": 0}).check(messages.DESCRIBE, config, 0)
    for kind in messages.REQUESTS:
        with pytest.raises(LimitError, match=f"^{key} is set, which is for simulations only$"):
            SiteSettings.from_node({"site": "GE"}).check(kind, config, 0)


def test_a_hospital_requires_patients_behind_every_number_and_a_simulation_one() -> None:
    assert SiteSettings(name="GE").cohorts() == Cohorts(10, 5, 5)
    assert SiteSettings(name="GE", serves="train, validate").cohorts() == Cohorts(10, 5, 0)
    assert SiteSettings(partition=0, serves="train").cohorts() == Cohorts(1, 1, 1)


@pytest.mark.parametrize("changes", [{"previous": "penalised"}, {"local-validation": True}])
def test_a_site_that_does_not_validate_does_not_validate_in_training_either(
    changes: dict[str, Value],
) -> None:
    config = RunConfig.from_flat(changes)
    SiteSettings(name="GE", serves="train,validate").check(messages.TRAIN, config, 1)
    with pytest.raises(LimitError, match=r"^this site does not serve validate$"):
        SiteSettings(name="GE", serves="train").check(messages.TRAIN, config, 1)
