"""Reads the key ``ranks``, which lists the LoRA ranks of a run's sites."""

from common.errors import UserError

MIN_RANK = 1
MOST_DIGITS = 9
"""Of a rank in the list; Python reads no number of thousands of digits."""


def highest_rank(ranks: str, rank: int) -> int:
    """Return the highest rank that a site can get, before any site is known."""
    if ranks in ("equal", "by-size"):
        return rank
    return max(value for values in listed(ranks).values() for value in values)


def listed(ranks: str) -> dict[str, list[int]]:
    """Parse ``SITE=RANK`` pairs into {site: [rank]}, or a plain list into {"": ranks}."""
    found: dict[str, list[int]] = {}
    for entry in ranks.split(","):
        site, _, value = (part.strip() for part in entry.rpartition("="))
        if not (value.isdecimal() and len(value) <= MOST_DIGITS) or int(value) < MIN_RANK:
            raise UserError(
                f"ranks: found {entry.strip()!r} in {ranks!r}, expected 'equal', 'by-size', a list "
                "of ranks above 0 or SITE=RANK pairs"
            )
        if site and site in found:
            raise UserError(f"ranks: found {site!r} twice in {ranks!r}")
        found.setdefault(site, []).append(int(value))
    if "" in found and len(found) > 1:
        raise UserError(f"ranks: found {ranks!r}, expected only ranks or only SITE=RANK pairs")
    return found
