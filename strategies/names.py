"""Whose a site's name is in a run. Pure functions, no Flower.

A site says its own name, so any site could say another's. The first that does has it for the whole
run. Where sites are registered at the SuperLink, a name belongs to the registration: to the name
or else the key that the coordinator registered. In trials without registration Flower gives a site
a new number at each start, so a name belongs to the node that had it first, and to another only
while that one is away.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

OTHERS = "in this run the name belongs to another site"
AMBIGUOUS = "{} connected sites say that they have this name"
RENAMED = "in this run the site's name is {!r}"


@dataclass(frozen=True)
class Claim:
    """What a node says its name is."""

    node: int
    name: str
    registration: str = ""
    """What stays when the site starts again; empty where the node is not registered."""
    registered: str = ""
    """The name under which the coordinator registered the node; empty if there is none."""

    @property
    def owner(self) -> str:
        """To whom the name belongs once the claim is granted."""
        return self.registration or f"node {self.node}"


def decide(
    claims: Iterable[Claim],
    owners: Mapping[str, str],
    holders: Mapping[str, int],
    connected: Collection[int],
) -> dict[int, str]:
    """Return by node why it does not get the name that it claims; empty where it does.

    Parameters
    ----------
    claims
        What newly described nodes say.
    owners
        By name :attr:`Claim.owner` of the claim that was granted first.
    holders
        By name the node that goes by it now.
    connected
        The nodes that are connected, with those of ``claims``.
    """
    by_name: dict[str, list[Claim]] = {}
    for claim in claims:
        by_name.setdefault(claim.name, []).append(claim)
    names = {owner: name for name, owner in owners.items()}
    found = {}
    for name, rivals in by_name.items():
        right = _rightful(rivals, owners.get(name), holders.get(name), connected)
        for claim in rivals:
            own = names.get(claim.owner, name) if claim.registration else name
            if claim not in right:
                found[claim.node] = OTHERS
            elif len(right) > 1:
                found[claim.node] = AMBIGUOUS.format(len(right))
            else:
                found[claim.node] = "" if own == name else RENAMED.format(own)
    return found


def _rightful(
    rivals: list[Claim], owner: str | None, holder: int | None, connected: Collection[int]
) -> list[Claim]:
    """Return those of the claims to one name that may have it; several where nobody can say."""
    if owner is None:  # the coordinator's word counts before theirs
        return [claim for claim in rivals if claim.registered == claim.name] or rivals
    own = [claim for claim in rivals if claim.owner == owner]
    if own or not owner.startswith("node ") or owner in {f"node {node}" for node in connected}:
        return own
    return [claim for claim in rivals if claim.node == holder] or (
        [] if holder in connected else [claim for claim in rivals if not claim.registration]
    )
