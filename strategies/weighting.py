"""Every site's share of a merge, and its mass: share · penalty. Pure functions, no Flower."""

from collections.abc import Mapping
from math import fsum
from statistics import median_low
from typing import TypeVar

from common.adapter import Adapter
from strategies import screening

MOST_TIMES = 10
"""What counts for a site's size is at most this many times the median of all sites."""

Number = TypeVar("Number", int, float)


def bounded(sizes: Mapping[str, Number]) -> dict[str, Number]:
    """Return the sizes, those above ``MOST_TIMES`` the lower median cut to it.

    No site can check what another says of its size. So a lie moves the others by a bounded factor,
    while fewer than half of the sites lie.
    """
    most = MOST_TIMES * median_low(sizes.values())
    return {site: min(size, most) for site, size in sizes.items()}


def shares(
    examples: Mapping[str, int], share: str, norms: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Return every site's share of the merge; they sum to one.

    Parameters
    ----------
    examples
        |D_c|, training examples by site.
    share
        ``site``: 1/N. ``examples``: |D_c| / Σ|D|, as in the paper's formula. ``norm``:
        ‖B_c A_c‖ / Σ‖B A‖, as HetLoRA, Cho et al., arXiv 2401.06432.
    norms
        :func:`product_norm` by site, for ``norm``. Where all are zero everyone has 1/N.

    Examples and norms count as :func:`bounded` has them.
    """
    if share == "norm":
        assert norms is not None, "share = norm needs the norms"
        norms = bounded({site: norms[site] for site in examples})
        total = fsum(norms.values())  # the same in any order of the sites
        if total > 0:
            return {site: norms[site] / total for site in examples}
    if share in ("site", "norm"):
        return {site: 1 / len(examples) for site in examples}
    examples = bounded(examples)
    total = sum(examples.values())
    return {site: n / total for site, n in examples.items()}


def product_norm(adapter: Adapter) -> float:
    """Return ‖scale · B A‖, the Frobenius norm over all layers; no dense product is built."""
    return screening.norm(adapter, adapter.truncated(0))  # its change against an adapter of rank 0


def masses(
    share: Mapping[str, float], factors: Mapping[str, float], *, normalise: bool
) -> dict[str, float]:
    """Return share_c · factor_c, scaled to the sum of the shares where ``normalise``.

    Adapters that live on from round to round need it: otherwise the whole adaptation shrinks
    whenever a site is penalised. Where all factors are 1 the shares come back untouched.
    """
    if all(factor == 1.0 for factor in factors.values()):
        return dict(share)
    product = {site: share[site] * factors[site] for site in share}
    if not normalise:
        return product
    total = sum(product.values())
    if total == 0:  # λ = 1 for all: the limit of λ → 1
        return dict(share)
    return {site: mass / total for site, mass in product.items()}


def removed(share: Mapping[str, float], mass: Mapping[str, float]) -> dict[str, float]:
    """Return the part of each site's share that the re-merge took away: 1 − mass_c / share_c.

    It is negative where normalising gave a site more than in the first merge, and 0 for a site
    that had no share.
    """
    return {site: 1.0 - mass.get(site, 0.0) / s if s else 0.0 for site, s in share.items()}


def normalises(normalise: str, merge: str) -> bool:
    """Return whether masses are scaled; ``auto``: where adapters live on, all but ``fold``."""
    return merge != "fold" if normalise == "auto" else normalise == "yes"
