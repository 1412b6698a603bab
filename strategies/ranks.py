"""The LoRA rank that each site trains with, from the keys ``rank`` and ``ranks``."""

import math
from collections.abc import Mapping

from common.errors import UserError
from common.ranks import MIN_RANK, listed
from strategies.weighting import bounded


def assign_ranks(ranks: str, rank: int, examples: Mapping[str, int]) -> dict[str, int]:
    """Return the rank of every site.

    Parameters
    ----------
    ranks
        ``equal``: ``rank`` for all sites.
        ``by-size``: rank · 2^round(log₂(n_c / n_max)), at least 1: half the rank for half the
        training examples. With rank 32, sites of sizes 1 : 1 : ½ get 32, 32 and 16. n_max is the
        largest size that :func:`strategies.weighting.bounded` does not cut, so that no site lowers
        the others' ranks by saying that it is huge.
        ``16,32,32``: one rank for each site, in the order of their names.
        ``GE=16,Philips=32,Siemens=32``: ranks by name; a site that is not in the list gets its
        lowest rank, so that no site ends the run by a name that nobody expected.
    rank
        The highest rank of ``equal`` and ``by-size``.
    examples
        Training examples by site.

    Raises
    ------
    UserError
        The list does not fit the sites, or an entry is not a rank.
    """
    if ranks == "equal":
        return dict.fromkeys(examples, rank)
    if ranks == "by-size":
        sizes = bounded(examples)
        largest = max(n for site, n in sizes.items() if n == examples[site])
        return {
            site: max(MIN_RANK, round(rank * 2.0 ** round(math.log2(min(n, largest) / largest))))
            for site, n in sizes.items()
        }
    by_name = listed(ranks)
    if "" in by_name:  # a plain list, in the order of the sites' names
        values = by_name[""]
        if len(values) != len(examples):
            raise UserError(
                f"ranks: found {ranks!r}, expected one rank for each of the sites "
                f"{sorted(examples)}"
            )
        return dict(zip(sorted(examples), values, strict=True))
    lowest = min(value for values in by_name.values() for value in values)
    return {site: by_name[site][0] if site in by_name else lowest for site in examples}
