"""Merging: one adapter from those of several sites. Pure functions, no Flower.

A merge is Σ_c m_c · X_c with the masses m_c = share_c · w_c; what "·" and "Σ" mean for adapters
depends on the merge:

``svd``  the products are summed, ΔW = Σ_c m_c · scale · B_c A_c, and taken back to rank r by the
         truncated SVD, the best approximation of that rank (Eckart-Young). As FlexLoRA, Bai et
         al., arXiv 2402.11505, but on the stacked factors.
``pad``  the factors are padded with zeros to the highest rank and summed apart, A = Σ_c m_c A_c,
         B = Σ_c m_c B_c. With equal ranks this is FedIT, Zhang et al., arXiv 2305.05644. The
         product of means is not the mean of products.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.adapter import Adapter, Factors


def shares(examples: Mapping[str, int], share: str) -> dict[str, float]:
    """Return every site's share of the merge; they sum to one.

    Parameters
    ----------
    examples
        |D_c|, training examples by site.
    share
        ``site``: 1/N. ``examples``: |D_c| / Σ|D|, as in the paper's formula.
    """
    if share == "site":
        return {site: 1 / len(examples) for site in examples}
    total = sum(examples.values())
    return {site: n / total for site, n in examples.items()}


def masses(
    share: Mapping[str, float], weights: Mapping[str, float], *, normalise: bool
) -> dict[str, float]:
    """Return share_c · w_c, scaled to the sum of the shares where ``normalise``.

    Adapters that live on from round to round need it: otherwise the whole adaptation shrinks
    whenever a site is penalised. Where all weights are 1 the shares come back untouched.
    """
    if all(weight == 1.0 for weight in weights.values()):
        return dict(share)
    product = {site: share[site] * weights[site] for site in share}
    if not normalise:
        return product
    total = sum(product.values())
    if total == 0:  # λ = 1 for all: the limit of λ → 1
        return dict(share)
    return {site: mass / total for site, mass in product.items()}


def normalises(normalise: str, merge: str) -> bool:
    """Resolve ``normalise = "auto"``: yes for merges of adapters that live on (svd, pad)."""
    return merge in ("svd", "pad") if normalise == "auto" else normalise == "yes"


def merge(
    adapters: Mapping[str, Adapter], mass: Mapping[str, float], how: str, rank: int = 1
) -> Adapter:
    """Merge adapters into one of their highest rank, or of ``rank`` where that is higher.

    Parameters
    ----------
    adapters
        By site, of one model and scale; ranks may differ.
    mass
        m_c by site.
    how
        ``svd`` or ``pad``; see the module.
    rank
        The run's highest rank, so that the merge keeps it when the sites that train at it
        are away.

    Returns
    -------
    Adapter
        After ``svd`` the components are ordered by strength, so a site of lower rank gets the
        best approximation by truncation.
    """
    sites = sorted(adapters)  # floating-point sums must not depend on who answered first
    scale = adapters[sites[0]].scale
    rank = max(rank, *(adapter.rank for adapter in adapters.values()))
    combine = {"svd": _merge_svd, "pad": _merge_pad}[how]
    layers = {
        name: combine([adapters[s].layers[name] for s in sites], [mass[s] for s in sites], rank)
        for name in adapters[sites[0]].layers
    }
    return Adapter(layers, scale)


def _merge_pad(factors: Sequence[Factors], mass: Sequence[float], rank: int) -> Factors:
    a = sum_scaled([F.pad(f.A, (0, 0, 0, rank - f.A.shape[0])) for f in factors], mass)
    b = sum_scaled([F.pad(f.B, (0, rank - f.B.shape[1])) for f in factors], mass)
    return Factors(a, b)


def _merge_svd(factors: Sequence[Factors], mass: Sequence[float], rank: int) -> Factors:
    """Truncate Σ m B A = [m_1 B_1 … m_N B_N] [A_1; …; A_N] to ``rank``.

    With R = Σ r_c, Q_B R_B the QR of the left stack (c_out × R) and Q_A R_A that of the right
    one's transpose (fan_in × R), the product is Q_B (R_B R_Aᵀ) Q_Aᵀ: its SVD is that of a matrix
    of at most R × R. The dense c_out × fan_in product is never built.
    """
    left = torch.cat([m * f.B for f, m in zip(factors, mass, strict=True)], dim=1).double()
    right = torch.cat([f.A for f in factors], dim=0).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    u, vt = _fix_signs(q_left @ u, vt @ q_right.T)
    root = s.clamp(min=0).sqrt()
    found = min(rank, len(s))
    b = (u[:, :found] * root[:found]).float()
    a = (root[:found, None] * vt[:found]).float()
    missing = rank - found  # a layer narrower, or less in the stacks, than the rank
    return Factors(F.pad(a, (0, 0, 0, missing)).contiguous(), F.pad(b, (0, missing)).contiguous())


def _fix_signs(u: Tensor, vt: Tensor) -> tuple[Tensor, Tensor]:
    """Make the largest entry of every column of U positive: an SVD is unique up to this."""
    largest = u.abs().argmax(dim=0)
    sign = torch.where(u[largest, torch.arange(u.shape[1])] < 0, -1.0, 1.0).to(u.dtype)
    return u * sign, vt * sign[:, None]


def sum_scaled(tensors: Sequence[Tensor], mass: Sequence[float]) -> Tensor:
    """Return Σ m_i · T_i in double precision, rounded once."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, m in zip(tensors, mass, strict=True):
        total += m * tensor.double()
    return total.float()
