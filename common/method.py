"""The keys that make a method: what trains, what is sent, and how it is merged and rated."""

from dataclasses import dataclass
from typing import Literal

from common.options import Check, option

Half = Literal["A", "B"]
BOTH: tuple[Half, ...] = ("A", "B")


@dataclass(frozen=True)
class MethodConfig:
    """A method as a combination of choices.

    The defaults are Rate-My-LoRA; ``strategies/methods.py`` names other combinations.
    """

    trains: str = option("adapter", choices=("adapter", "weights"), affects="result")
    """What is trained and sent: LoRA factors on the frozen base, or all weights of the network."""
    factors: str = option("both", choices=("both", "B", "alternate"), affects="result")
    """Which LoRA factors train: ``both``; ``B``, while A stays as drawn from the seed; or
    ``alternate``, B in odd rounds and A in even ones. Only factors that trained are sent."""
    sends: str = option("all", choices=("all", "A", "none"), affects="result")
    """What a site sends of its adapter: ``all`` that trained; ``A`` alone; or ``none``."""
    merge: str = option("svd", choices=("svd", "pad", "fold", "residual"), affects="result")
    """How adapters are merged: ``svd``, the mean of the products BA, truncated to rank r; ``pad``,
    the mean of the factors, zero-padded to equal ranks; ``fold``, the sum of the products, added
    to the base at every site, after which adapters begin anew; ``residual``, as ``pad``, and the
    difference to the mean of the products is added to the base."""
    share: str = option("site", choices=("site", "examples", "norm"), affects="result")
    """A site's share of the merge: ``site``, 1/N; ``examples``, |D_c| / Σ|D|; ``norm``,
    proportional to the norm of its product BA. No size counts more than ten times the median."""
    normalise: str = option("auto", choices=("auto", "yes", "no"), affects="result")
    """Whether penalised masses are scaled to sum to one; ``auto``: unless ``merge = "fold"``."""
    rating: str = option(
        "penalty", choices=("penalty", "gap", "search", "recipient", "none"), affects="result"
    )
    """How validation changes the masses: ``penalty``, Eq. 1; ``gap``, more for sites at which the
    merge is worse than their own adapter; ``search``, the best of several merges; ``recipient``, a
    merge for each site by the Dice of the others' adapters there; ``none``, not at all."""
    rating_step: float = option(0.2, above=0, high=1, affects="result")
    """How far ``gap`` and ``search`` move masses in a round; for ``recipient``, the temperature of
    its softmax in units of 0.1 Dice."""
    lambda_0: float = option(0.2, low=0, high=1, affects="result")
    """λ of round 1; 0 is plain federated averaging of adapters."""
    decay: float = option(0.95, above=0, high=1, affects="result")
    """Factor on λ from round to round."""
    schedule: str = option("decay", choices=("decay", "held", "spread"), affects="result")
    """λ over the rounds: ``decay``, as in the paper; ``held``, it decays only after rounds in which
    sites agreed; ``spread``, λ_0 · (spread of the sites' Dice) / (spread of the base's Dice)."""
    tolerance: float = option(0.0, low=0, high=1, affects="result")
    """A site's Dice counts as changed where the change exceeds tolerance / √(its number of
    validation volumes); 0, as in the paper, counts every change."""
    previous: str = option("first", choices=("first", "penalised"), affects="result")
    """The merge that P(t−1) is of: the first merge, as P(t) is, or the penalised re-merge."""
    local_validation: bool = option(False, affects="output")
    """Whether a site also validates its own adapter after training, before any merge; this costs
    one more validation a round."""

    @property
    def folds(self) -> bool:
        """Whether sites fold something into their base in a round."""
        return self.merge in ("fold", "residual")

    @property
    def shares_whole(self) -> bool:
        """Whether whole adapters travel, both A and B."""
        return self.factors == "both" and self.sends == "all"

    @property
    def keeps_own(self) -> bool:
        """Whether a site keeps its own adapter between rounds, as no message brings all of it."""
        return self.factors == "alternate" or self.sends != "all"

    @property
    def personal(self) -> bool:
        """Whether every site ends with an adapter of its own."""
        return self.sends != "all" or self.rating == "recipient"

    @property
    def validates(self) -> bool:
        """Whether sites validate the first merge of a round."""
        return self.rating in ("penalty", "search", "recipient")

    @property
    def rates_start(self) -> bool:
        """Whether a site validates what it starts a round from."""
        return self.previous == "penalised" or self.rating in ("gap", "recipient")

    @property
    def rates_own(self) -> bool:
        """Whether a site validates its own adapter after training."""
        return self.local_validation or self.rating == "gap"

    def trained(self, server_round: int) -> tuple[Half, ...]:
        """Return the halves of the factors that train in a round."""
        if self.factors == "alternate":
            return ("B",) if server_round % 2 else ("A",)
        return ("B",) if self.factors == "B" else BOTH

    def sent_up(self, server_round: int) -> tuple[Half, ...]:
        """Return the halves that a site sends after training."""
        if self.sends == "all":
            return self.trained(server_round)
        return ("A",) if self.sends == "A" else ()

    def sent_down(self, last: int, *, whole: bool) -> tuple[Half, ...]:
        """Return the halves of a merge that a site needs.

        Parameters
        ----------
        last
            The round of the merge; 0 for the initial adapter.
        whole
            Whether the site did not train in that round and so lacks the other half.
        """
        if self.factors == "alternate":
            return BOTH if whole or last == 0 else self.trained(last)
        return self.sent_up(last)

    def checks(self) -> list[Check]:
        """Return the checks of keys against each other."""
        parts = self.factors != "both" or self.sends != "all" or self.trains == "weights"
        moved = self.rating in ("gap", "search", "recipient")
        return [
            ("merge", self.merge, not parts or self.merge == "pad",
             "'pad' where not whole adapters are trained and sent"),
            ("factors", self.factors, self.factors == "both" or self.sends == "all",
             "'both' where sends is not 'all'"),
            ("trains", self.trains, self.trains == "adapter" or self.sends == "all",
             "'adapter' where sends is not 'all'"),
            ("share", self.share, self.share != "norm" or not parts,
             "'site' or 'examples' where not whole adapters are trained and sent"),
            ("rating", self.rating, not parts or not moved,
             "'penalty' or 'none' where not whole adapters are trained and sent"),
            ("rating", self.rating, not self.folds or not moved,
             "'penalty' or 'none' with merge = 'fold' or 'residual'"),
            ("rating", self.rating, self.sends == "all" or self.rating == "none",
             "'none' where sends is not 'all'"),
        ]  # fmt: skip
