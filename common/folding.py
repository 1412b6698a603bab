"""Dense weight changes that were folded into the base, kept beside it. Pure functions.

The base file stays as it is; a model computes with base + folded + scale · B·A.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from common.adapter import Adapter, Factors

BLOCK = 1024
"""Components that are converted to double at a time, since many sites' may be stacked."""


def fold(folded: Mapping[str, Tensor] | None, adapter: Adapter) -> dict[str, Tensor]:
    """Return the sum of earlier folds and an adapter's deltas, by layer.

    ``folded`` has weight changes (c_out, c_in·k·k) by layer, None for none yet. The adapter has the
    same layers and any rank, also 0. Sums are in double precision and rounded once.
    """
    assert folded is None or set(folded) == set(adapter.layers), "folded is of another model"
    sums = {}
    for name, factors in sorted(adapter.layers.items()):
        total = adapter.scale * product(factors)
        if folded is not None:
            total += folded[name]
        sums[name] = total.float()
    return sums


def product(factors: Factors) -> Tensor:
    """Return B·A in double precision, (c_out, c_in·k·k), computed in blocks of components."""
    a, b = factors
    total = torch.zeros(b.shape[0], a.shape[1], dtype=torch.float64)
    for first in range(0, a.shape[0], BLOCK):
        block = slice(first, first + BLOCK)
        total.addmm_(b[:, block].double(), a[block].double())
    return total


def as_adapter(folded: Mapping[str, Tensor], adapter: Adapter | None, scale: float) -> Adapter:
    """Return one adapter that changes the base as ``folded`` and ``adapter`` together do.

    It lets tools that read adapters use the result of a method that folds. A dense change D becomes
    B = I, A = D / scale, or B = D / scale, A = I where that is smaller, exact up to rounding.

    Parameters
    ----------
    folded
        What :func:`fold` returned.
    adapter
        The adapter in use on top of it, if any; its scale may differ.
    scale
        The scale of the returned adapter.

    Returns
    -------
    Adapter
        Its rank is what the largest layer needs; the other layers are padded with zeros.
    """
    dense = folded if adapter is None else fold(folded, adapter)
    rank = max(min(change.shape) for change in dense.values())
    layers = {}
    for name, change in sorted(dense.items()):
        c_out, fan_in = change.shape
        quotient = change / scale
        if c_out <= fan_in:
            a, b = quotient, torch.eye(c_out)
        else:
            a, b = torch.eye(fan_in), quotient
        missing = rank - min(c_out, fan_in)
        layers[name] = Factors(A=F.pad(a, (0, 0, 0, missing)), B=F.pad(b, (0, missing)))
    return Adapter(layers, scale)
