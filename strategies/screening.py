"""Screening: leaves out or scales back sites whose changes or Dice differ from the others'.

All of it is off by default, and none of it is in the paper. Pure functions, no Flower.

The change that a site made in a round is Δ_c = s · (B_c A_c − B_0 A_0), over all layers: the
product of its factors minus that of the adapter that it was sent. Every rule compares a site with a
median over the sites, so it holds while fewer than half of them are bad (Yin et al.,
"Byzantine-robust distributed learning", arXiv 1803.01498).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import torch
from torch import Tensor

from common.adapter import Adapter, Factors
from common.config import ScreeningConfig

FEWEST = 3
"""Fewest sites to screen: of two that differ nobody can say which one is wrong."""
RATING_FLOOR = 0.01
"""Least spread of changes of Dice that is assumed: noise alone makes as much on a few patients."""
UNMOVED = 1e-6
"""A change of at most this part of the median norm is rounding and has no direction."""
BLOCK = 256
"""Rows of a Gram matrix that are computed at a time."""


@dataclass(frozen=True)
class Screened:
    """The adapters that are merged after screening, and what was found."""

    adapters: dict[str, Adapter]
    """Adapters by site. One that was scaled back has a higher rank than the one that was sent."""
    notes: dict[str, dict[str, float]] = field(default_factory=dict)
    """``norm_ratio``, ‖Δ_c‖ over the median norm, and ``agreement`` by site, as the run asks."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a site is left out, by site."""


def screen(sent: Mapping[str, Adapter], start: Adapter, config: ScreeningConfig) -> Screened:
    """Leave out changes that the others contradict and scale back those that are too large.

    Parameters
    ----------
    sent
        The sites' adapters, by name.
    start
        The adapter that the sites were sent, each cut to its rank.
    config
        ``min_agreement`` and ``norm_bound`` are used. The median norm is over all of ``sent``,
        with those that are left out. With fewer than three sites nothing is done.
    """
    found = Screened(dict(sent))
    bounding, judging = config.norm_bound > 0, config.min_agreement > -1
    if len(sent) < FEWEST or not (bounding or judging):
        return found
    sites = sorted(sent)  # floating-point sums must not depend on who answered first
    found.notes.update({site: {} for site in sites})
    if judging:
        cosine = cosines(inner_products([sent[site] for site in sites], start))
        agreement, left_out = judge(cosine, config.min_agreement)
        for site, value in zip(sites, agreement, strict=True):
            found.notes[site]["agreement"] = value
        for index in left_out:
            del found.adapters[sites[index]]
            found.refused[sites[index]] = (
                f"its change agrees {agreement[index]:.3f} with the others', expected at least "
                f"min-agreement = {config.min_agreement:g}"
            )
    if bounding:
        norms = [norm(sent[site], start) for site in sites]
        for site, ratio in zip(sites, over_median(norms), strict=True):
            found.notes[site]["norm_ratio"] = ratio
            if ratio > config.norm_bound and site in found.adapters:
                found.adapters[site] = scaled(sent[site], start, config.norm_bound / ratio)
    return found


def inner_products(adapters: Sequence[Adapter], start: Adapter) -> Tensor:
    """Return ⟨Δ_c, Δ_d⟩ for all pairs of sites, (sites, sites), in double precision.

    ⟨B_1 A_1, B_2 A_2⟩ = tr((B_1ᵀ B_2)(A_2 A_1ᵀ)) is the sum of all entries of
    (B_1ᵀ B_2) ∘ (A_1 A_2ᵀ). So with L and R the factors of all sites and of the start stacked,
    (c_out, n) and (n, fan_in), all inner products are S ((Lᵀ L) ∘ (R Rᵀ)) Sᵀ, where row c of S,
    (sites, n), is +1 at the components of site c and −1 at the first r_c of the start. Neither a
    dense c_out × fan_in product nor the n × n matrix is ever built.

    Doubles hold the product of any four finite singles, so no site can make this overflow.
    """
    signs = _signs([adapter.rank for adapter in adapters], start.rank)
    n = signs.shape[1]
    half = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for name, first_factors in start.layers.items():
        factors = [*(adapter.layers[name] for adapter in adapters), first_factors]
        left = torch.cat([f.B for f in factors], dim=1).double()  # (c_out, n)
        right = torch.cat([f.A for f in factors], dim=0).double()  # (n, fan_in)
        for first in range(0, n, BLOCK):
            last = min(first + BLOCK, n)
            gram = (left[:, first:last].T @ left[:, first:]) * (right[first:last] @ right[first:].T)
            gram[:, : last - first] /= 2  # the square on the diagonal is its own mirror image
            half += signs[:, first:last] @ gram @ signs[:, first:].T
    return start.scale**2 * (half + half.T)


def _signs(ranks: Sequence[int], start_rank: int) -> Tensor:
    """Return S of :func:`inner_products`, (sites, n)."""
    signs = torch.zeros(len(ranks), sum(ranks) + start_rank, dtype=torch.float64)
    own = 0
    for row, rank in zip(signs, ranks, strict=True):
        row[own : own + rank] = 1
        row[sum(ranks) : sum(ranks) + rank] = -1
        own += rank
    return signs


def norm(adapter: Adapter, start: Adapter) -> float:
    """Return ‖Δ_c‖, the Frobenius norm over all layers."""
    return inner_products([adapter], start).clamp(min=0).sqrt().item()


def over_median(norms: Sequence[float]) -> list[float]:
    """Return every norm divided by the median norm."""
    middle = median(norms)
    return [value / middle if middle else (torch.inf if value else 0.0) for value in norms]


def scaled(adapter: Adapter, start: Adapter, factor: float) -> Adapter:
    """Return the adapter whose change against ``start`` is ``factor`` times as large, exactly.

    B_0 A_0 + f (B A − B_0 A_0) = [√f B, (1 − f) B_0] [√f A; A_0]: its rank is the sum of both, and
    the merge by SVD cuts it again. This is the norm clipping of Sun et al., "Can you really
    backdoor federated learning?", arXiv 1911.07963, on products, with the median for a constant.
    """
    root = factor**0.5  # on both factors, so that huge values fit in float32
    layers = {}
    for name, own in adapter.layers.items():
        sent = start.truncated(adapter.rank).layers[name]
        left = torch.cat([root * own.B.double(), (1 - factor) * sent.B.double()], dim=1)
        right = torch.cat([root * own.A.double(), sent.A.double()], dim=0)
        layers[name] = Factors(A=right.float(), B=left.float())
    return Adapter(layers, adapter.scale)


def cosines(products: Tensor) -> Tensor:
    """Return the cosines (sites, sites) of inner products; those of a site without change are 0."""
    norms = products.diagonal().clamp(min=0).sqrt()
    moved = norms > UNMOVED * norms.median()
    outer = torch.where(moved, norms, torch.inf)
    return (products / outer / outer[:, None]).clamp(-1, 1)


def judge(cosine: Tensor, least: float) -> tuple[list[float], list[int]]:
    """Leave out, one by one, the site that agrees least with those that are left.

    The agreement of a site is its median cosine with the others. It is computed anew after each
    exclusion, because among three sites a single contrary one halves that of the good ones. Two
    sites always stay. Returns every site's last agreement, and the indices of those left out.
    """
    left = list(range(len(cosine)))
    agreement = [0.0] * len(cosine)
    left_out: list[int] = []
    while True:
        among = cosine[left][:, left]
        others = among[~torch.eye(len(left), dtype=torch.bool)].view(len(left), len(left) - 1)
        for index, value in zip(left, others.quantile(0.5, dim=1).tolist(), strict=True):
            agreement[index] = value
        worst = min(left, key=agreement.__getitem__)
        if len(left) < FEWEST or agreement[worst] >= least:
            return agreement, left_out
        left.remove(worst)
        left_out.append(worst)


def rated(
    validation: Mapping[str, float], previous: Mapping[str, float], check: float
) -> dict[str, float]:
    """Return the P(t) that Eq. 1 uses: those whose change is not too far from the others'.

    With ΔP_c = P_c(t) − P_c(t−1), their median m and d = median |ΔP_c − m|, a site is left out if
    |ΔP_c − m| > check · max(d, 0.01) (Hampel's identifier). Both medians are over all sites, not
    over the others: of three sites the others are two, and the median of two is their mean, which
    a single lie drags along. Half of the sites or more lie within d, so they are always used.

    Eq. 1 looks at signs only: a lie of −0.001 a round does all that a larger one does, and no
    rule of this kind sees it. What bounds a lie is λ: the penalties of the others fall to 1 − λ_t.

    Parameters
    ----------
    validation, previous
        P(t) and P(t−1) by site.
    check
        The run's ``rating-check``; 0 for off. With fewer than three changes all are used.
    """
    change = {site: p - previous[site] for site, p in validation.items() if site in previous}
    if not check or len(change) < FEWEST:
        return dict(validation)
    middle = median(change.values())
    distance = {site: abs(value - middle) for site, value in change.items()}
    most = check * max(median(distance.values()), RATING_FLOOR)
    return {site: p for site, p in validation.items() if distance.get(site, 0.0) <= most}
