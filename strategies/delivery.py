"""Packs requests with what a site needs, given what the site holds already.

A site that trained in the round before holds its own factors and everything folded up to then, so
it is sent only what is new. Any other site is sent everything.
"""

from flwr.app import ArrayRecord

from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.messages import Request, Train
from common.weights import Weights
from strategies.state import Merged, RunState


class Delivery:
    """Packs requests by what the server knows that each site holds.

    ``state`` is the run's state, read whenever a request is packed; ``run_rank`` is the highest
    rank of the run.
    """

    def __init__(self, config: RunConfig, state: RunState, run_rank: int) -> None:
        self.config = config
        self.state = state
        self.run_rank = run_rank

    def pack(
        self,
        kind: type[Request],
        server_round: int,
        site: str = "",
        rank: int = 0,
        merged: Merged | None = None,
        others: tuple[ArrayRecord, ...] = (),
    ) -> Request:
        """Return a request that brings a site what it needs to use a merge.

        Parameters
        ----------
        kind, server_round
            The request's class, and the round that it belongs to.
        site, rank
            The site's name, and the rank at which it uses the adapter.
        merged
            For training and test, what the site goes on with; for validation, the first merge of
            a round that is not settled; None to ask for the base alone.
        others
            More adapters to rate.
        """
        if merged is None:
            return kind(self.config, self.state.run_id, server_round)
        last = server_round - (kind is Train)  # the round of the merge
        held = self.state.held.get(site, 0)
        holds = held == last
        fold = folded = adapter = None
        folds = self.state.folds
        if merged.fold is not None:
            settled = self.state.server_round == last  # the state's folds include this one
            if settled and not holds:
                folded = self._folded()
            else:
                fold = records.adapter_to_record(merged.fold)
                folds -= settled
                if folds and not holds:
                    folded = self._folded()
        match merged.parameters:
            case Weights() as weights:
                if weights.values:
                    adapter = records.tensors_to_record(weights.tensors())
            case Adapter() as whole if self.config.method.merge != "fold":
                halves = self.config.method.sent_down(last, whole=not holds)
                if halves:
                    adapter = records.halves_to_record(whole.truncated(rank), halves)
        numbers = (server_round, rank, self.run_rank, folds, held)
        return kind(self.config, self.state.run_id, *numbers, adapter, fold, folded, others)

    def _folded(self) -> ArrayRecord:
        assert self.state.folded is not None
        return records.tensors_to_record(self.state.folded)
