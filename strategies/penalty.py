"""The rating: whose adapter is damped in the re-merge of a round.

Source: He et al., arXiv 2501.03223, Eq. 1.
"""

from collections.abc import Iterable, Mapping


def damping(lambda_0: float, decay: float, server_round: int) -> float:
    """Return λ_t = λ_0 · decay^(t−1) for round t, counted from 1."""
    return lambda_0 * decay ** (server_round - 1)


def site_weights(
    trained: Iterable[str],
    validation: Mapping[str, float],
    previous: Mapping[str, float],
    lambda_t: float,
) -> dict[str, float]:
    """Weigh every site that trained by what its gain cost the others.

    w_t(c) = 1 − λ_t  if P_c(t) > P_c(t−1) and P_i(t) < P_i(t−1) for some i ≠ c, otherwise 1.

    Parameters
    ----------
    trained
        Sites whose adapters are in this round's merge.
    validation
        P(t), mean Dice of the merge at every site that reported one. A site without a report
        has neither gained nor lost: its weight is 1.
    previous
        P(t−1) by site; a site new to the run has none and neither gains nor loses.
    lambda_t
        From :func:`damping`.

    Returns
    -------
    dict
        Weight by site, for every site in ``trained``.
    """
    change = {site: p - previous[site] for site, p in validation.items() if site in previous}
    losers = {site for site, delta in change.items() if delta < 0}
    return {
        site: 1.0 - lambda_t if change.get(site, 0.0) > 0 and losers - {site} else 1.0
        for site in trained
    }
