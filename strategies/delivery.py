"""Delivery: what a message must bring to a site, given what the site holds.

A site that trained in the round before holds its own factors and what was folded up to then, so
that only what is new travels. Others get all of it.
"""

from flwr.app import ArrayRecord

from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.weights import Weights
from strategies.state import Merged, RunState


class Delivery:
    """What the sites hold, as far as the server knows.

    Parameters
    ----------
    config
        Of the run.
    state
        Of the run; read when a message is packed.
    """

    def __init__(self, config: RunConfig, state: RunState) -> None:
        self.config = config
        self.state = state
        self._trained: dict[str, int] = {}  # by site, the last round of which it holds the result

    def trained(self, site: str, server_round: int) -> None:
        """Note that a site trained in a round."""
        self._trained[site] = server_round

    def failed(self, site: str) -> None:
        """Note that a site may have lost what it held."""
        self._trained.pop(site, None)

    def pack(
        self, site: str, kind: str, merged: Merged, rank: int, server_round: int
    ) -> tuple[dict[str, ArrayRecord], int]:
        """Return the arrays that a site needs to use a merge, and how many folds they build on.

        Parameters
        ----------
        site
            Name.
        kind
            Of the message: before training, validation or test.
        merged
            For training and test what the state goes on with; for validation a round's merge
            that is not settled yet.
        rank
            At which the site uses the adapter.
        server_round
            Round that the message belongs to.
        """
        last = server_round - (kind == records.TRAIN)  # the round of the merge
        holds = self._trained.get(site) == last
        arrays: dict[str, ArrayRecord] = {}
        folds = self.state.folds
        if merged.fold is not None:
            settled = folds == last  # what is merged is folded into the state already
            if settled and not holds:
                arrays[records.FOLDED] = self._folded()
            else:
                arrays[records.FOLD] = records.adapter_to_record(merged.fold)
                folds -= settled
                if folds and not holds:
                    arrays[records.FOLDED] = self._folded()
        match merged.parameters:
            case Weights() as weights:
                if weights.values:
                    arrays[records.ADAPTER] = records.tensors_to_record(weights.tensors())
            case Adapter() as adapter if self.config.method.merge != "fold":
                halves = self.config.method.sent_down(last, whole=not holds)
                if halves:
                    cut = adapter.truncated(rank)
                    arrays[records.ADAPTER] = records.halves_to_record(cut, halves)
        return arrays, folds

    def _folded(self) -> ArrayRecord:
        assert self.state.folded is not None
        return records.tensors_to_record(self.state.folded)
