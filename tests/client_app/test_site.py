"""A node finds its site's cases, describes them, trains and scores."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cardiac.datasets import read_cases
from cardiac.preprocessing import load_frame
from cardiac.splits import SPLITS, split_cases
from client_app.assembly import State
from client_app.settings import SiteSettings
from client_app.site import Site
from common.config import RunConfig
from common.errors import UserError
from common.model import file_sha256
from common.options import Value
from common.weights import Parameters
from tests.cardiac.samples import write_mnms2_hearts
from tests.conftest import MakeAdapter, adapter_of

PATIENTS = {"GE": 4, "Philips": 5, "Siemens": 6}


def small(name: str, **more: str) -> SiteSettings:
    """Return a site's settings with lower minimums, as the sites here have few patients."""
    return SiteSettings(name, min_train_patients=1, min_patients=1, **more)  # type: ignore[arg-type]


GE = small("GE")


def changed(config: RunConfig, changes: dict[str, Value]) -> RunConfig:
    return RunConfig.from_flat({**config.to_flat(), **changes})


def same_bits(one: Parameters, other: Parameters) -> bool:
    left, right = one.tensors(), other.tensors()
    return list(left) == list(right) and all(torch.equal(left[k], right[k]) for k in left)


def patients(site: Site) -> set[str]:
    return {case.patient for split in SPLITS for case in site.cases[split]}


def test_a_node_says_its_site_and_where_its_files_are() -> None:
    node: dict[str, Value] = {"site": "GE", "data-dir": "/data", "base-model": "/base"}
    assert SiteSettings.from_node(node) == SiteSettings("GE", None, None, "/data", "/base")


def test_a_simulated_node_says_its_partition() -> None:
    assert SiteSettings.from_node({"partition-id": 1, "num-partitions": 3}) == SiteSettings(
        partition=1, partitions=3
    )


@pytest.mark.parametrize(
    ("node", "words"),
    [
        ({}, ["'site'"]),
        ({"data-dir": "/data"}, ["'site'"]),
        ({"site": ""}, ["'site'"]),
        ({"site": "GE", "datadir": "/data"}, ["unknown key 'datadir'", "data-dir", "base-model"]),
        ({"partition-id": "one"}, ["partition-id", "'one'", "expected a int"]),
        ({"partition-id": -1, "num-partitions": 3}, ["partition-id", "-1", "at least 0"]),
        ({"partition-id": 0, "num-partitions": 1.5}, ["num-partitions", "1.5", "expected a int"]),
    ],
)
def test_a_wrong_node_configuration_is_refused(node: dict[str, Value], words: list[str]) -> None:
    with pytest.raises(UserError, match=r"^node config: ") as error:
        SiteSettings.from_node(node)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_site_is_found_by_its_name(site_config: RunConfig) -> None:
    site = Site(GE, site_config)
    assert site.name == "GE"
    everyone = read_cases(Path(site_config.data.data_dir))
    assert patients(site) == {c.patient for c in everyone if c.info["VENDOR"].startswith("GE")}


def test_partitions_are_the_sites_in_the_order_of_their_names(site_config: RunConfig) -> None:
    sites = [Site(SiteSettings(partition=n, partitions=3), site_config) for n in range(3)]
    assert {site.name: len(patients(site)) for site in sites} == PATIENTS
    assert [site.name for site in sites] == sorted(PATIENTS)


def test_fewer_nodes_than_sites_take_the_first_ones(site_config: RunConfig) -> None:
    assert Site(SiteSettings(partition=0, partitions=2), site_config).name == "GE"


@pytest.mark.parametrize("settings", [SiteSettings("", 0, 4), SiteSettings("", 3, None)])
def test_more_nodes_than_sites_are_refused(site_config: RunConfig, settings: SiteSettings) -> None:
    with pytest.raises(
        UserError, match=r"VENDOR.*3 site\(s\): GE, Philips, Siemens; 4 SuperN"
    ) as e:
        Site(settings, site_config)
    assert str(e.value).startswith(site_config.data.data_dir)


def test_an_unknown_site_is_told_which_there_are(site_config: RunConfig) -> None:
    with pytest.raises(UserError, match=r"GE, Philips, Siemens; expected one called 'Canon'"):
        Site(small("Canon"), site_config)


def test_a_site_too_small_to_split_is_named_with_its_folder(
    tmp_path: Path, site_config: RunConfig
) -> None:
    folder = write_mnms2_hearts(tmp_path, {"GE": 2, "Siemens": 3})
    config = changed(site_config, {"data-dir": str(folder)})
    with pytest.raises(UserError, match=r"site GE: 2 patient\(s\).*expected at least 3") as error:
        Site(GE, config)
    assert str(error.value).startswith(f"{folder}: ")
    assert Site(small("Siemens"), config).name == "Siemens"


def test_a_node_may_have_its_own_folder_and_base(
    tmp_path: Path, site_config: RunConfig, work_dir: Path
) -> None:
    folder = write_mnms2_hearts(tmp_path / "own", {"Canon": 3})
    base = tmp_path / "base"
    base.write_bytes((work_dir / "base.safetensors").read_bytes())
    config = changed(site_config, {"data-dir": "/nowhere", "base-model": "/nowhere"})
    site = Site(small("Canon", data_dir=str(folder), base_model=str(base)), config)
    assert patients(site) == {"001", "002", "003"}
    assert site.base_model == base


@pytest.mark.parametrize("missing", ["data-dir", "base-model"])
def test_a_hospital_never_works_on_a_phantom_in_place_of_its_data(
    site_config: RunConfig, missing: str
) -> None:
    with pytest.raises(UserError, match=f"found no '{missing}'"):
        Site(GE, changed(site_config, {missing: ""}))


def test_a_description_counts_cases_and_slices(site_config: RunConfig, work_dir: Path) -> None:
    facts = Site(GE, site_config).describe()
    own = [c for c in read_cases(Path(site_config.data.data_dir)) if "GE" in c.info["VENDOR"]]
    split = split_cases(own, site_config.data.split_seed)
    assert facts.name == "GE"
    assert facts.base_sha256 == file_sha256(work_dir / "base.safetensors")
    cases = (facts.train_cases, facts.val_cases, facts.test_cases)
    assert cases == tuple(len(split[name]) for name in SPLITS)
    assert sum(cases) == 2 * PATIENTS["GE"]
    assert facts.train_examples == sum(len(load_frame(case)[0]) for case in split["train"])


def test_another_base_than_the_runs_is_refused(site_config: RunConfig) -> None:
    site = Site(GE, replace(site_config, base_sha256="0" * 64))
    with pytest.raises(UserError, match=r"base\.safetensors: SHA-256 is .*, expected 0000"):
        site.describe()


def test_a_base_of_another_shape_is_refused(site_config: RunConfig) -> None:
    site = Site(GE, changed(site_config, {"features": "8,8,8,8,8,8"}))
    with pytest.raises(UserError, match=r"base\.safetensors: does not fit features"):
        site.describe()


def test_training_changes_the_factors_and_nothing_else(
    site_config: RunConfig, make_adapter: MakeAdapter, work_dir: Path
) -> None:
    site, start = Site(GE, site_config), make_adapter()
    kept = {name: value.clone() for name, value in start.tensors().items()}
    base, weights = file_sha256(work_dir / "base.safetensors"), site.model().state_dict()
    result = site.train(State(start), server_round=1)
    trained = result.parameters.tensors()
    assert trained.keys() == kept.keys()
    assert all(trained[name].shape == kept[name].shape for name in kept)
    assert not any(torch.equal(trained[name], kept[name]) for name in kept)
    assert all(torch.equal(start.tensors()[name], kept[name]) for name in kept)
    assert adapter_of(result.parameters).scale == start.scale
    assert result.examples == len(site.slices)
    assert file_sha256(work_dir / "base.safetensors") == base
    after = site.model().state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in weights)


def test_training_is_a_function_of_seed_site_and_round(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    config = changed(site_config, {"augment": True})
    start = make_adapter()
    expected = Site(GE, config).train(State(start), server_round=3).parameters
    busy = Site(GE, config)
    busy.train(State(start), server_round=1)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        again = busy.train(State(start), server_round=3).parameters
    assert same_bits(again, expected)
    assert not same_bits(busy.train(State(start), server_round=4).parameters, expected)
    other_seed = Site(GE, replace(config, seed=1))
    assert not same_bits(other_seed.train(State(start), server_round=3).parameters, expected)


def test_the_same_patients_at_another_site_are_seen_in_another_order(
    tmp_path: Path, site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    adapters = []
    for vendor in ("GE", "Canon"):
        folder = write_mnms2_hearts(tmp_path / vendor, {vendor: 3})
        config = changed(site_config, {"data-dir": str(folder)})
        adapters.append(Site(small(vendor), config).train(State(make_adapter()), 1).parameters)
    assert not same_bits(*adapters)


def test_local_epochs_are_passes_over_the_data(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    start = make_adapter()
    one, two = (
        Site(GE, changed(site_config, {"local-epochs": epochs})).train(State(start), 1)
        for epochs in (1, 2)
    )
    assert (two.loss or 0) < (one.loss or 0)
    assert one.examples == two.examples


def test_where_the_run_asks_the_start_of_training_is_scored_and_training_is_the_same(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    start = make_adapter(scale=2.0)
    plain = Site(GE, site_config)
    asked = Site(GE, changed(site_config, {"previous": "penalised"}))
    expected = plain.score(State(start), "val").mean_dice
    assert expected != plain.score(State(), "val").mean_dice
    result = asked.train(State(start), server_round=1)
    assert result.start_dice == expected
    without = plain.train(State(start), server_round=1)
    assert without.start_dice is None
    assert same_bits(result.parameters, without.parameters)


def test_where_the_run_asks_the_trained_adapter_is_scored_too(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    start = make_adapter(scale=2.0)
    asked = Site(GE, changed(site_config, {"local-validation": True}))
    result = asked.train(State(start), server_round=1)
    assert result.local_dice == asked.score(State(result.parameters), "val").mean_dice
    without = Site(GE, site_config).train(State(start), server_round=1)
    assert without.local_dice is None
    assert same_bits(result.parameters, without.parameters)


def test_a_score_is_of_the_adapter_that_is_asked_for(
    site_config: RunConfig, make_adapter: MakeAdapter
) -> None:
    site = Site(GE, site_config)
    base = site.score(State(), "test")
    zero = make_adapter(scale=0.0)
    strong = site.score(State(make_adapter(scale=2.0)), "test")
    assert site.score(State(zero), "test").mean_dice == base.mean_dice
    assert strong.mean_dice != base.mean_dice
    assert base.cases == len(site.cases["test"])
    assert site.score(State(), "test").mean_dice == base.mean_dice
