"""The merges: one adapter from those of several sites. Pure functions, no Flower.

A merge is Σ_c m_c · X_c with the masses m_c = share_c · w_c; what "·" and "Σ" mean for adapters
depends on the merge:

``svd``  the products are summed, ΔW = Σ_c m_c · scale · B_c A_c, and taken back to rank r by the
         truncated SVD, the best approximation of that rank (Eckart-Young). As FlexLoRA, Bai et
         al., arXiv 2402.11505, but on the stacked factors.
``pad``  the factors are padded with zeros to the highest rank and summed apart, A = Σ_c m_c A_c,
         B = Σ_c m_c B_c. With equal ranks this is FedIT, Zhang et al., arXiv 2305.05644. The
         product of means is not the mean of products.
``fold`` the products are summed and nothing is cut: :func:`stack` goes into the base, and
         adapters start anew. As FLoRA, Wang et al., arXiv 2409.05976.
``residual`` as ``pad``; the difference between the sum of products and the product of means,
         :func:`residual`, goes into the base. As FedEx-LoRA, Singhal et al., arXiv 2410.09432.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import isclose

import torch
import torch.nn.functional as F
from torch import Tensor

from common.adapter import Adapter, Factors
from common.folding import BLOCK, product

Combine = Callable[[Sequence[Factors], Sequence[float]], Factors]


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
        ``svd``, ``pad`` or ``residual``, which is ``pad`` here; see the module.
    rank
        The run's highest rank, which the merge keeps even when the sites of that rank are away.

    Returns
    -------
    Adapter
        After ``svd`` the components are ordered by strength, so a site of lower rank gets the
        best approximation by truncation.
    """
    rank = max(rank, *(adapter.rank for adapter in adapters.values()))
    combine = {"svd": _merge_svd, "pad": _merge_pad, "residual": _merge_pad}[how]
    return _layer_by_layer(adapters, mass, partial(combine, rank=rank))


def stack(adapters: Mapping[str, Adapter], mass: Mapping[str, float]) -> Adapter:
    """Return Σ_c m_c B_c A_c, exactly, as [m_1 B_1 … m_N B_N] [A_1; …; A_N] of rank Σ_c r_c."""
    return _layer_by_layer(adapters, mass, _stack)


def residual(adapters: Mapping[str, Adapter], mass: Mapping[str, float]) -> Adapter:
    """Return Σ_c m_c B_c A_c − B̂ Â as factors: the part of the sum of products that ``pad`` misses.

    With B̂ = Σ_c m_c B_c and Â = Σ_c m_c A_c of the padded factors, this is
    Σ_c m_c (B_c − B̂) A_c. Only the first r_c columns of B̂ meet rows of A_c that are not zero, so
    its rank is at most Σ_c r_c, whatever the ranks and masses.

    With equal ranks and masses that sum to one, Σ_c m_c (B_c − B̂) = 0 as well. Subtracting A_N
    from every A_c then changes nothing: Σ_{c<N} m_c (B_c − B̂) (A_c − A_N), of rank (N − 1) r.
    """
    return _layer_by_layer(adapters, mass, _residual)


def mean_weights(
    weights: Mapping[str, Mapping[str, Tensor]], mass: Mapping[str, float]
) -> dict[str, Tensor]:
    """Return Σ_c m_c W_c of whole networks, by name. McMahan et al., arXiv 1602.05629."""
    sites = sorted(weights)
    weighed = [mass[site] for site in sites]
    return {
        name: sum_scaled([weights[site][name] for site in sites], weighed)
        for name in weights[sites[0]]
    }


def _layer_by_layer(
    adapters: Mapping[str, Adapter], mass: Mapping[str, float], combine: Combine
) -> Adapter:
    sites = sorted(adapters)  # floating-point sums must not depend on who answered first
    first = adapters[sites[0]]
    weighed = [mass[site] for site in sites]
    layers = {
        name: combine([adapters[site].layers[name] for site in sites], weighed)
        for name in first.layers
    }
    return Adapter(layers, first.scale)


def _stack(factors: Sequence[Factors], mass: Sequence[float]) -> Factors:
    """Return the factors side by side, (R, fan_in) and (c_out, R) with R = Σ r_c."""
    return Factors(
        A=torch.cat([f.A for f in factors], dim=0),
        B=torch.cat([m * f.B for f, m in zip(factors, mass, strict=True)], dim=1),
    )


def _residual(factors: Sequence[Factors], mass: Sequence[float]) -> Factors:
    ranks = [f.A.shape[0] for f in factors]
    mean = _sum_padded_b(factors, mass, max(ranks))  # B̂, (c_out, highest rank)
    apart = [Factors(f.A, f.B - mean[:, :rank]) for f, rank in zip(factors, ranks, strict=True)]
    if len(set(ranks)) > 1 or not isclose(sum(mass), 1, rel_tol=1e-9):
        return _stack(apart, mass)
    a, b = _stack([Factors(f.A - factors[-1].A, f.B) for f in apart], mass)
    rest = a.shape[0] - ranks[-1]  # the last site's A is zero now and can go
    return Factors(a[:rest].contiguous(), b[:, :rest].contiguous())


def _merge_pad(factors: Sequence[Factors], mass: Sequence[float], rank: int) -> Factors:
    a = sum_scaled([F.pad(f.A, (0, 0, 0, rank - f.A.shape[0])) for f in factors], mass)
    return Factors(a, _sum_padded_b(factors, mass, rank))


def _sum_padded_b(factors: Sequence[Factors], mass: Sequence[float], rank: int) -> Tensor:
    return sum_scaled([F.pad(f.B, (0, rank - f.B.shape[1])) for f in factors], mass)


def _merge_svd(factors: Sequence[Factors], mass: Sequence[float], rank: int) -> Factors:
    u, s, vt = _svd(_stack(factors, mass))
    root = s.clamp(min=0).sqrt()
    found = min(rank, len(s))
    b = (u[:, :found] * root[:found]).float()
    a = (root[:found, None] * vt[:found]).float()
    missing = rank - found  # a layer narrower than the rank, or stacks with fewer components
    return Factors(F.pad(a, (0, 0, 0, missing)).contiguous(), F.pad(b, (0, missing)).contiguous())


def _svd(stacked: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Return the SVD of B A in double precision, without components that must be zero.

    With the QR decompositions B = Q_B R_B (c_out × R) and Aᵀ = Q_A R_A (fan_in × R), the product
    is Q_B (R_B R_Aᵀ) Q_Aᵀ. So the SVD of a matrix of at most R × R is enough, and the dense
    c_out × fan_in product is never built. Only where R is larger than that product, with hundreds
    of sites, it is multiplied out.
    """
    a, b = stacked
    if a.shape[0] > max(BLOCK, min(b.shape[0], a.shape[1])):
        u, s, vt = torch.linalg.svd(product(stacked), full_matrices=False)
    else:
        q_left, r_left = torch.linalg.qr(b.double())
        q_right, r_right = torch.linalg.qr(a.double().T)
        u, s, vt = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        u, vt = q_left @ u, vt @ q_right.T
    u, vt = _fix_signs(u, vt)
    return u, s, vt


def _fix_signs(u: Tensor, vt: Tensor) -> tuple[Tensor, Tensor]:
    """Make the largest entry of every column of U positive, as an SVD leaves the signs open."""
    largest = u.abs().argmax(dim=0)
    sign = torch.where(u[largest, torch.arange(u.shape[1])] < 0, -1.0, 1.0).to(u.dtype)
    return u * sign, vt * sign[:, None]


def sum_scaled(tensors: Sequence[Tensor], mass: Sequence[float]) -> Tensor:
    """Return Σ m_i · T_i in double precision, rounded once."""
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor, m in zip(tensors, mass, strict=True):
        total += m * tensor.double()
    return total.float()
