"""Whose a site's name is."""

import pytest

from strategies.names import AMBIGUOUS, OTHERS, RENAMED, Claim, decide

KEYED = Claim(9, "GE", "key a")
LOOSE = Claim(9, "GE")


def decided(*claims: Claim, owner: str = "", holder: int = 0, away: int = 0) -> list[str]:
    """Return why each does not get the name GE, which may have an owner and a holder."""
    owners = {"GE": owner} if owner else {}
    holders = {"GE": holder} if holder else {}
    found = decide(claims, owners, holders, {9, 7, 5, *(c.node for c in claims)} - {away})
    return [found[claim.node] for claim in claims]


@pytest.mark.parametrize("claim", [KEYED, LOOSE])
def test_the_first_gets_the_name(claim: Claim) -> None:
    assert decided(claim) == [""]
    assert decided(claim, Claim(7, "Siemens", claim.registration and "key b")) == ["", ""]


@pytest.mark.parametrize("registration", ["key b", ""])
def test_two_at_once_get_it_neither(registration: str) -> None:
    for first in (KEYED, LOOSE):
        both = decided(first, Claim(5, "GE", registration))
        assert both == [AMBIGUOUS.format(2)] * 2


def test_the_name_that_the_coordinator_registered_decides() -> None:
    ours = Claim(9, "GE", "name GE", "GE")
    assert decided(ours, Claim(5, "GE", "key b")) == ["", OTHERS]
    assert decided(ours, Claim(5, "GE", "name GE", "GE")) == [AMBIGUOUS.format(2)] * 2


@pytest.mark.parametrize("away", [0, 9])
def test_a_name_that_belongs_to_a_registration_is_nobody_elses(away: int) -> None:
    for thief in (Claim(7, "GE", "key b"), Claim(7, "GE")):
        assert decided(thief, owner="key a", holder=9, away=away) == [OTHERS]
    assert decided(KEYED, Claim(7, "GE", "key b"), owner="key a") == ["", OTHERS]


def test_the_owner_is_let_in_again_under_another_number() -> None:
    for owner in ("key a", "name GE"):  # a name that was registered stays when its key is replaced
        assert decided(Claim(5, "GE", owner), owner=owner, holder=9, away=9) == [""]


def test_a_registered_site_has_one_name() -> None:
    claim = Claim(9, "Philips", "key a")
    assert decided(claim, owner="key a", holder=9) == [RENAMED.format("GE")]


def test_without_registration_a_site_that_starts_again_has_its_name() -> None:
    assert decided(Claim(7, "GE"), owner="node 9", holder=9, away=9) == [""]
    assert decided(Claim(7, "GE"), owner="node 9", holder=9) == [OTHERS]  # until the old one left
    assert decided(Claim(7, "GE"), owner="node 9", holder=7, away=9) == [""]  # asked once more


def test_without_registration_the_first_gets_its_name_back() -> None:
    assert decided(LOOSE, owner="node 9", holder=7) == [""]
    assert decided(Claim(7, "GE"), LOOSE, owner="node 9") == [OTHERS, ""]


def test_a_name_does_not_pass_on_while_its_holder_is_there() -> None:
    assert decided(Claim(5, "GE"), owner="node 9", holder=7, away=9) == [OTHERS]
