"""``rating = "penalty"``: Eq. 1 of the paper, which damps sites that gained while another lost.

Source: He et al., "Rate-My-LoRA", ISBI 2025, arXiv 2501.03223. The tolerances and the schedules
``held`` and ``spread`` of λ are ours.
"""

import math
from collections.abc import Iterable, Mapping
from statistics import pstdev

from strategies import screening, weighting
from strategies.rules.base import Dice, Masses, Reports, Rule, Settled


class Penalty(Rule):
    """Eq. 1. It carries two numbers for its schedules: calm rounds, and the spread of P(0)."""

    def settle(self, server_round: int, share: Masses, reports: Reports, before: Dice) -> Settled:
        """Return the penalised masses."""
        method = self.method
        dice = {site: report.dice for site, report in reports.items()}
        rated = screening.rated(dice, before, self.config.screening.rating_check)
        volumes = {site: report.volumes for site, report in reports.items()}
        tolerance = tolerances(method.tolerance, volumes)
        if server_round == 1:
            self.memory["first-spread"] = spread(before)
        calm = self.memory.get("calm-rounds", 0)
        lambda_t = lambda_of(
            method.schedule,
            method.lambda_0,
            method.decay,
            server_round,
            calm,
            spread(rated),
            self.memory.get("first-spread"),
        )
        self.memory["calm-rounds"] = calm + (not disagree(rated, before, tolerance))
        penalty = penalties(share, rated, before, lambda_t, tolerance)
        normalise = weighting.normalises(method.normalise, method.merge)
        masses = weighting.masses(share, penalty, normalise=normalise)
        notes = {site: {"unrated": True} for site in dice if site not in rated}
        return Settled(masses, penalty, lambda_t, notes=notes)


def penalties(
    trained: Iterable[str],
    validation: Mapping[str, float],
    previous: Mapping[str, float],
    lambda_t: float,
    tolerance: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Return the penalty on the share of every site that trained: Eq. 1.

    w_t(c) = 1 − λ_t  if P_c(t) > P_c(t−1) and P_i(t) < P_i(t−1) for some i ≠ c, otherwise 1.

    With tolerances τ a site gained only if P_c(t) − P_c(t−1) > τ_c, and lost only if the
    difference is below −τ_c.

    Parameters
    ----------
    trained
        Sites whose adapters are in this round's merge.
    validation
        P(t), the mean Dice of the first merge at every site that reported one.
    previous
        P(t−1) by site. A site without P(t) or P(t−1) has neither gained nor lost.
    lambda_t
        From :func:`lambda_of`.
    tolerance
        From :func:`tolerances`; 0 for sites that are not in it.

    Returns
    -------
    dict
        w_t(c) of every site in ``trained``, the factor on its share; 1 is no penalty.
    """
    gained, lost = _moved(validation, previous, tolerance)
    return {site: 1.0 - lambda_t if site in gained and lost else 1.0 for site in trained}


def damping(lambda_0: float, decay: float, server_round: int) -> float:
    """Return λ_t = λ_0 · decay^(t−1) for round t, counted from 1."""
    return lambda_0 * decay ** (server_round - 1)


def lambda_of(
    schedule: str,
    lambda_0: float,
    decay: float,
    server_round: int,
    calm_rounds: int,
    spread: float | None,
    first_spread: float | None,
) -> float:
    """Return λ_t under a schedule; no schedule exceeds λ_0.

    ``decay``   λ_0 · decay^(t−1), the paper's.
    ``held``    λ_0 · decay^k after k calm rounds: λ stays as it is while sites disagree.
    ``spread``  λ_0 · min(1, s_t / s_0): λ falls as the sites' Dice come closer to each other.

    Parameters
    ----------
    server_round
        t, counted from 1.
    calm_rounds
        How many of the earlier rounds were without disagreement; see :func:`disagree`.
    spread, first_spread
        s_t and s_0, :func:`spread` of the round's P(t) and of the base's P(0). Without either, or
        with s_0 = 0, the schedule ``spread`` keeps λ_0.
    """
    if schedule == "decay":
        return damping(lambda_0, decay, server_round)
    if schedule == "held":
        return damping(lambda_0, decay, calm_rounds + 1)
    assert schedule == "spread", schedule
    if spread is None or not first_spread:
        return lambda_0
    return lambda_0 * min(1.0, spread / first_spread)


def spread(validation: Mapping[str, float]) -> float:
    """Return s, the (population) standard deviation of P_c over the sites; 0 of fewer than two."""
    return pstdev(validation.values()) if len(validation) > 1 else 0.0


def tolerances(tolerance: float, volumes: Mapping[str, int]) -> dict[str, float]:
    """Return every site's tolerance: the standard error of its change, tolerance / √n_c.

    Where nothing but chance changes P, one standard error is exceeded in 32 of 100 rounds, half
    of them gains. Of three such sites one gains while another loses in 13 of 100 rounds, against
    75 of 100 with tolerance 0. A site that loses less than its tolerance round after round is
    never seen to lose.

    Parameters
    ----------
    tolerance
        Standard deviation of one volume's change of Dice from round to round; 0 for Eq. 1 as it
        is. Volumes of one patient change together, so the true standard error is rather larger.
    volumes
        n_c, validation volumes by site; 0 counts as 1.
    """
    return {site: tolerance / math.sqrt(max(n, 1)) for site, n in volumes.items()}


def disagree(
    validation: Mapping[str, float],
    previous: Mapping[str, float],
    tolerance: Mapping[str, float] | None = None,
) -> bool:
    """Return whether some site gained while another lost, as :func:`penalties` defines it.

    This is so in every round that damps a site, and where the sites that gained did not train.
    """
    gained, lost = _moved(validation, previous, tolerance)
    return bool(gained and lost)


def _moved(
    validation: Mapping[str, float],
    previous: Mapping[str, float],
    tolerance: Mapping[str, float] | None,
) -> tuple[set[str], set[str]]:
    """Return the sites that gained and those that lost; no site is in both."""
    tau = tolerance or {}
    change = {site: p - previous[site] for site, p in validation.items() if site in previous}
    gained = {site for site, delta in change.items() if delta > tau.get(site, 0.0)}
    lost = {site for site, delta in change.items() if delta < -tau.get(site, 0.0)}
    return gained, lost
