"""Pretraining that is interrupted, resumed, and refused."""

import shutil
from pathlib import Path

import pytest
import torch

from cardiac.pretraining import pretrain
from common.config import RunConfig
from common.errors import UserError
from common.model import file_sha256, load_base
from tests.cardiac.samples import tiny_config, write_mnms2_hearts


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return five patients, with 24 slices of four to train on: 3 steps in each of 3 epochs."""
    return write_mnms2_hearts(tmp_path_factory.mktemp("hearts"), {"GE": 5}, slices=3)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return tiny_config(tmp_path / "cache", {"spacing-mm": 1.5, "augment": True})


class PulledPlugError(Exception):
    """Someone pulls the plug."""


class Steps:
    """Notes the steps that are reported, and pulls the plug after one of them."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.seen: list[int] = []
        self.total = 0

    def __call__(self, what: str, done: int, total: int, loss: float) -> None:
        if what != "pretraining":
            return
        assert loss > 0
        self.seen.append(done)
        self.total = total
        if done == self.last:
            raise PulledPlugError


def interrupted_at(last: int, data: Path, out: Path, config: RunConfig) -> None:
    with pytest.raises(PulledPlugError):
        pretrain(data, out, config, Steps(last))
    assert not out.exists()


def unbroken(data: Path, out: Path, config: RunConfig) -> str:
    steps = Steps()
    sha256, _ = pretrain(data, out, config, steps)
    assert steps.seen == list(range(1, steps.total + 1))
    return sha256


@pytest.mark.parametrize("epochs_done", [1, 2])
def test_an_interrupted_pretraining_ends_at_the_same_file(
    tmp_path: Path, hearts: Path, config: RunConfig, epochs_done: int
) -> None:
    expected = unbroken(hearts, tmp_path / "unbroken", config)
    out = tmp_path / "base"
    interrupted_at(3 * epochs_done + 2, hearts, out, config)
    with torch.random.fork_rng():
        torch.manual_seed(5)  # another process would have another state
        steps = Steps()
        sha256, _ = pretrain(hearts, out, config, steps)
    assert steps.seen == list(range(3 * epochs_done + 1, 10))
    assert sha256 == expected == file_sha256(out)


def test_one_interrupted_in_its_first_epoch_begins_again(
    tmp_path: Path, hearts: Path, config: RunConfig
) -> None:
    interrupted_at(2, hearts, tmp_path / "base", config)
    assert unbroken(hearts, tmp_path / "base", config) == unbroken(hearts, tmp_path / "b", config)


@pytest.mark.parametrize("change", [{"pretrain-learning-rate": 0.01}, {"seed": 1}])
def test_changed_settings_begin_again(
    tmp_path: Path, hearts: Path, config: RunConfig, change: dict[str, float]
) -> None:
    out = tmp_path / "base"
    interrupted_at(8, hearts, out, config)
    changed = RunConfig.from_flat({**config.to_flat(), **change})
    assert unbroken(hearts, out, changed) == unbroken(hearts, tmp_path / "other", changed)


@pytest.mark.parametrize("change", [{"threads": 2}, {"device": "auto"}])
def test_settings_that_cannot_change_the_weights_do_not_begin_again(
    tmp_path: Path, hearts: Path, config: RunConfig, change: dict[str, int | str]
) -> None:
    interrupted_at(8, hearts, tmp_path / "base", config)
    changed = RunConfig.from_flat({**config.to_flat(), **change})
    assert changed != config
    steps = Steps()
    pretrain(hearts, tmp_path / "base", changed, steps)
    assert steps.seen == [7, 8, 9]


def test_other_axes_begin_again(tmp_path: Path, hearts: Path, config: RunConfig) -> None:
    interrupted_at(8, hearts, tmp_path / "base", config)
    changed = RunConfig.from_flat({**config.to_flat(), "affine-axes": "RAS"})
    unbroken(hearts, tmp_path / "base", changed)


def test_a_case_that_was_replaced_begins_again(
    tmp_path: Path, hearts: Path, config: RunConfig
) -> None:
    folder, out = tmp_path / "hearts", tmp_path / "base"
    shutil.copytree(hearts, folder)
    interrupted_at(8, folder, out, config)
    for study in sorted((folder / "dataset").iterdir()):
        shutil.copyfile(study / f"{study.name}_SA_ES.nii.gz", study / f"{study.name}_SA_ED.nii.gz")
    assert unbroken(folder, out, config) == unbroken(folder, tmp_path / "other", config)


def test_what_is_left_is_the_base_alone_and_it_is_whole(
    tmp_path: Path, hearts: Path, config: RunConfig
) -> None:
    folder = tmp_path / "out"
    sha256, scores = pretrain(hearts, folder / "base", config, Steps())
    assert [path.name for path in folder.iterdir()] == ["base"]
    load_base(folder / "base", config.model.channels(), sha256=sha256)
    assert scores.cases == 2  # ED and ES of the one patient that is held out
    assert 0 < scores.mean_dice < 1


def test_too_few_patients_are_refused_with_the_folder(tmp_path: Path, config: RunConfig) -> None:
    folder = write_mnms2_hearts(tmp_path / "two", {"GE": 2})
    with pytest.raises(UserError, match=r"2 patient.*expected at least 3") as error:
        pretrain(folder, tmp_path / "base", config, Steps())
    assert str(error.value).startswith(f"{folder}: ")
