"""Against honest partners, the hospital and the federation of the attacks work as they should."""

from pathlib import Path

from common import messages
from tests.attacks.kit import Hospital, federate, metrics, refusal, start, three


def test_the_hospital_trains_and_rates_for_an_honest_coordinator(hospital: Hospital) -> None:
    """An honest coordinator: the hospital answers each of its requests."""
    described = hospital.ask(messages.DESCRIBE)
    assert not refusal(described)
    assert metrics(described)["train-examples"] > 0
    adapter = start()
    assert not refusal(hospital.ask(messages.TRAIN, adapter))
    rated = hospital.ask(messages.VALIDATE, adapter)
    assert 0 <= metrics(rated)["dice"] <= 1, refusal(rated)
    assert [line["verdict"] for line in hospital.log()] == ["passed"] * 6


def test_a_run_of_honest_sites_ends(tmp_path: Path) -> None:
    """Three honest sites: their run ends with an adapter and without a refusal."""
    ended = federate(three(), tmp_path / "run")
    assert ended.error is None
    assert not ended.refused()
    assert len(ended.history()) == 4
    assert ended.same_result(federate(three(), tmp_path / "again"))
