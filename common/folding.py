"""What was folded into the base, beside it: dense weight changes by layer. Pure functions.

The base file stays as it is; what a model computes with is base + folded + scale · B·A.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from common.adapter import Adapter, Factors

BLOCK = 1024
"""Components that are held in double precision at a time: those of many sites may come stacked."""


def fold(folded: Mapping[str, Tensor] | None, adapter: Adapter) -> dict[str, Tensor]:
    """Return what was folded and the adapter's deltas in one.

    Parameters
    ----------
    folded
        Weight changes (c_out, c_in·k·k) by layer; None for none yet.
    adapter
        Of the same layers, of any rank, 0 too.

    Returns
    -------
    dict
        Summed in double precision and rounded once; the arguments are left alone.
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
    """Return B·A in double precision, (c_out, c_in·k·k); it may have more components than fit."""
    a, b = factors
    total = torch.zeros(b.shape[0], a.shape[1], dtype=torch.float64)
    for first in range(0, a.shape[0], BLOCK):
        block = slice(first, first + BLOCK)
        total.addmm_(b[:, block].double(), a[block].double())
    return total


def as_adapter(folded: Mapping[str, Tensor], adapter: Adapter | None, scale: float) -> Adapter:
    """Return one adapter that changes the base as ``folded`` and ``adapter`` together do.

    So all that reads adapters can use what a folding method ends with. A dense change D is
    B = I, A = D / scale, or B = D / scale, A = I where that is smaller. Up to the rounding of
    D / scale this is exact.

    Parameters
    ----------
    folded
        What :func:`fold` returned.
    adapter
        The one in use on top of it, if any; its scale may be another.
    scale
        Of the adapter that is returned.

    Returns
    -------
    Adapter
        Of the rank that the largest layer needs; the others are padded with zeros.
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
