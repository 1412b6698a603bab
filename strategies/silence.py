"""Sites that do not answer are asked ever more rarely, as each time costs the others a time-out."""

from collections.abc import Collection

PATIENT = 2
"""A site is asked in every phase until it was silent this many times in a row."""


def pause(silences: int) -> int:
    """Return for how many rounds a site is not asked: 1, 2, 4 … from ``PATIENT`` silences on.

    1 is the rest of the round in which it was silent.
    """
    return 0 if silences < PATIENT else 2 ** (silences - PATIENT)


class Silences:
    """How often each site was silent in a row, and the round in which it is asked again."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._until: dict[str, int] = {}

    def note(self, server_round: int, silent: Collection[str], answered: Collection[str]) -> None:
        """Note which of the sites that were asked answered."""
        for site in answered:
            self.forget(site)
        for site in silent:
            self._count[site] = self._count.get(site, 0) + 1
            self._until[site] = server_round + pause(self._count[site])

    def forget(self, site: str) -> None:
        """Ask the site again, as it has answered."""
        self._count.pop(site, None)
        self._until.pop(site, None)

    def is_due(self, site: str, server_round: int) -> bool:
        """Return whether to ask the site in a round."""
        return server_round >= self._until.get(site, 0)

    def reason(self, site: str) -> str:
        """Return why the site is not asked."""
        times = self._count.get(site, 0)
        return f"not asked before round {self._until.get(site, 0)}, as it was silent {times} times"
