"""``Weights``, all weights of a network, for the methods that train and average whole networks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from common.adapter import Adapter


@dataclass(frozen=True)
class Weights:
    """The weights of a whole network."""

    values: Mapping[str, Tensor] = field(default_factory=dict)
    """Weights by name as in the network's state dict; empty means those of the base file."""

    @property
    def rank(self) -> int:
        """0, since whole weights have no rank."""
        return 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(value.nbytes for value in self.values.values())

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights, sorted by name."""
        return dict(sorted(self.values.items()))


Parameters = Adapter | Weights
"""The trained values that sites send and the server merges."""
