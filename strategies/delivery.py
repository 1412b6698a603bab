"""Delivery: what a request must bring to a site, given what the site holds.

A site that trained in the round before holds its own factors and what was folded up to then, so
that only what is new travels. Others get all of it.
"""

from flwr.app import ArrayRecord

from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.messages import Request, Train
from common.weights import Weights
from strategies.state import Merged, RunState


class Delivery:
    """Packs requests by what the sites hold, as far as the server knows.

    Parameters
    ----------
    config
        The run's configuration.
    state
        The run's state; read when a request is packed, and told what sites hold.
    run_rank
        The highest rank of the run.
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
        kind
            To train, validate or test.
        server_round
            The round that the request belongs to.
        site
            Name of the site.
        rank
            At which the site uses the adapter.
        merged
            For training and test what the state goes on with; for validation a round's merge
            that is not settled yet; None to ask for the base alone.
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
            settled = folds == last  # what is merged is folded into the state already
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
        return kind(
            self.config,
            self.state.run_id,
            server_round,
            rank,
            self.run_rank,
            folds,
            held,
            adapter,
            fold,
            folded,
            others,
        )

    def _folded(self) -> ArrayRecord:
        assert self.state.folded is not None
        return records.tensors_to_record(self.state.folded)
