"""Whether the sites can use a merge, and whose updates spoil it. Pure functions, no Flower."""

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from common import folding
from common.adapter import Adapter
from common.records import LARGEST
from common.weights import Parameters
from strategies import weighting
from strategies.state import Merged

SPOILS = "the merge with its update has values that no site takes"


def is_usable(merged: Merged, folded: Mapping[str, Tensor] | None) -> bool:
    """Return whether a merge passes the check that every site makes of what it receives.

    ``folded`` is everything folded before; see :func:`common.records.read_tensors`.
    """
    tensors = [*merged.parameters.tensors().values()]
    if merged.fold is not None:
        tensors += merged.fold.tensors().values()
        tensors += folding.fold(folded, merged.fold).values()
    return all(bool((value.abs() <= LARGEST).all()) for value in tensors)  # False for NaN


def spoilers(
    updates: Mapping[str, Parameters], passes: Callable[[Collection[str]], bool]
) -> list[str]:
    """Return the sites without which the merge can be used; all of them where there is none.

    Looks for one site whose absence is enough, the largest update first. Where no single one is
    enough, the largest goes and the search begins anew.

    Parameters
    ----------
    updates
        What would be merged, by site; the merge of all is not usable.
    passes
        Returns whether the merge of these sites can be used.
    """
    by_size = sorted(updates, key=lambda site: (-_norm(updates[site]), site))
    out: list[str] = []
    while len(out) < len(by_size):
        left = [site for site in by_size if site not in out]
        for site in left:
            rest = [other for other in left if other != site]
            if rest and passes(rest):
                return [*out, site]
        out.append(left[0])
    return out


def _norm(update: Parameters) -> float:
    """Return the norm of an update's products, or of its weights."""
    if isinstance(update, Adapter):
        return weighting.product_norm(update)
    squares = [value.double().square().sum() for value in update.tensors().values()]
    return torch.stack(squares).sum().item()
