"""The privacy ledger of a site, and training with noise as a run sees it."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from client_app.assembly import State
from client_app.privacy import PrivacyLedger, epsilon
from client_app.settings import LimitError, PrivacySettings, SiteSettings
from client_app.site import Site
from common.config import RunConfig
from common.errors import UserError
from common.messages import METRICS, SPENT, Failure
from tests.conftest import MakeAdapter
from tests.strategies.fakes import same_bits

SETTINGS = PrivacySettings(noise_multiplier=2.0, sampling_rate=0.5, delta=0.01, max_epsilon=6.0)


def ledger(folder: Path, site: str = "GE", settings: PrivacySettings = SETTINGS) -> PrivacyLedger:
    return PrivacyLedger(folder, site, settings)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (4.0, 8), (20.0, 100), (0.5, 3)])
def test_epsilon_is_near_the_exact_one_where_all_are_drawn(noise: float, steps: int) -> None:
    found = epsilon([(noise, 1.0, steps)], 0.01)
    assert exact_delta(found, noise / math.sqrt(steps)) <= 0.01  # never too low
    assert exact_delta(0.8 * found, noise / math.sqrt(steps)) > 0.01  # nor far too high


def exact_delta(spent: float, noise: float) -> float:
    """Return δ of the Gaussian mechanism: Balle and Wang, arXiv 1805.06530, Theorem 8."""

    def phi(x: float) -> float:
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))

    half = 1 / (2 * noise)
    return phi(half - spent * noise) - math.exp(spent) * phi(-half - spent * noise)


def test_epsilon_adds_up_over_settings_and_falls_with_noise_and_drawing() -> None:
    one = epsilon([(2.0, 0.5, 10)], 0.01)
    assert epsilon([(2.0, 0.5, 6), (2.0, 0.5, 4)], 0.01) == pytest.approx(one)
    assert epsilon([(2.0, 0.5, 10), (4.0, 0.1, 10)], 0.01) > one
    assert epsilon([(4.0, 0.5, 10)], 0.01) < one
    assert epsilon([(2.0, 0.1, 10)], 0.01) < one
    assert epsilon([(2.0, 0.5, 10)], 0.001) > one
    assert epsilon([], 0.01) == 0.0


def test_all_runs_of_a_site_share_a_ledger_and_sites_do_not(tmp_path: Path) -> None:
    first = ledger(tmp_path).spend(4)
    assert first == pytest.approx(epsilon([(2.0, 0.5, 4)], 0.01))
    again = ledger(tmp_path, settings=replace(SETTINGS, noise_multiplier=3.0)).spend(4)
    assert again == pytest.approx(epsilon([(2.0, 0.5, 4), (3.0, 0.5, 4)], 0.01))
    assert ledger(tmp_path).spent() == again
    assert ledger(tmp_path, "Philips").spent() == 0.0


def test_nothing_is_spent_beyond_the_limit(tmp_path: Path) -> None:
    own = ledger(tmp_path, settings=replace(SETTINGS, max_epsilon=epsilon([(2.0, 0.5, 3)], 0.01)))
    spent = own.spend(3)
    for _ in range(2):
        with pytest.raises(LimitError, match=SPENT):
            own.spend(1)
        assert own.spent() == spent
    Failure(SPENT).check()  # the sentence may leave


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b'{"steps": [[1, 0.5]]}', b'{"steps": [[0, 0.5, 1]]}',
     b'{"steps": [[1, 0.5, -4]]}', b'{"steps": [[1, 0.5, true]]}', b'{"steps": [[NaN, 1, 4]]}',
     b'{"steps": [[1, 2, 4]]}', b'{"steps": 4}', b'{"steps": [["1", 1, 4]]}'],
)  # fmt: skip
def test_a_damaged_ledger_ends_training_until_it_is_mended(tmp_path: Path, content: bytes) -> None:
    own = ledger(tmp_path)
    own.spend(2)
    own.path.write_bytes(content)
    with pytest.raises(UserError, match=r"privacy-.*\.json: not a privacy ledger"):
        own.spend(2)
    assert own.path.read_bytes() == content


@pytest.fixture
def private_site(site_config: RunConfig, tmp_path: Path) -> Callable[[PrivacySettings], Site]:
    def make(privacy: PrivacySettings) -> Site:
        data = replace(site_config.data, cache_dir=str(tmp_path))
        return Site(
            SiteSettings(name="GE", min_train_patients=1, min_patients=1, privacy=privacy),
            replace(site_config, data=data),
        )

    return make


def test_training_with_noise_reports_epsilon_and_no_loss(
    private_site: Callable[[PrivacySettings], Site], make_adapter: MakeAdapter
) -> None:
    site = private_site(SETTINGS)
    first, again = (site.train(State(make_adapter()), 1) for _ in range(2))
    assert first.epsilon == pytest.approx(epsilon([(2.0, 0.5, 2)], 0.01))
    assert again.epsilon == pytest.approx(epsilon([(2.0, 0.5, 4)], 0.01))
    assert not same_bits(first.parameters, again.parameters)
    metrics = first.to_record().metric_records[METRICS]
    assert set(metrics) == {"num-examples", "seconds", "epsilon", "delta"}
    assert first.delta == 0.01


def test_a_site_without_noise_keeps_no_ledger(
    private_site: Callable[[PrivacySettings], Site], make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    update = private_site(PrivacySettings()).train(State(make_adapter()), 1)
    assert update.loss is not None
    assert (update.epsilon, update.delta) == (None, None)
    assert list(tmp_path.glob("privacy-*")) == []


def test_a_site_whose_budget_is_spent_does_not_train(
    private_site: Callable[[PrivacySettings], Site], make_adapter: MakeAdapter
) -> None:
    site = private_site(replace(SETTINGS, max_epsilon=0.1))
    with pytest.raises(LimitError, match=SPENT):
        site.train(State(make_adapter()), 1)
