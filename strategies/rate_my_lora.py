"""Rate-My-LoRA as a Flower strategy: train, equal merge, validate, penalty, re-merge.

Source: He et al., "Rate-My-LoRA", ISBI 2025, arXiv 2501.03223. The equations are in
:mod:`strategies.merging`, :mod:`strategies.weighting` and :mod:`strategies.penalty`; the hooks here
move messages. Other methods (:mod:`strategies.methods`) differ in what is sent
(:mod:`strategies.delivery`), merged (:mod:`strategies.aggregation`) and rated
(:mod:`strategies.rules`), and take the same way.
"""

from collections.abc import Callable, Iterable, Mapping
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import records
from common.config import RunConfig
from common.errors import UserError
from strategies import aggregation
from strategies.aggregation import Shapes
from strategies.delivery import Delivery
from strategies.exchange import Exchange
from strategies.replies import (
    ReplyError,
    Validation,
    payload,
    read_test,
    read_update,
    read_validation,
)
from strategies.roster import Site
from strategies.round import Round
from strategies.rules import rule_of
from strategies.state import Merged, RoundRecord, RunState

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
OnRound = Callable[[RunState, RoundRecord], None]
"""Called after every finished round; what it saves is what a crash cannot take."""
Arrays = Mapping[str, ArrayRecord]
EMPTY: Arrays = {}
OnPhase = Callable[[int, str], None]
"""Called with (server round, phase) when a phase begins."""


class RateMyLoRA(Strategy):
    """The two-phase aggregation of DESIGN §1.

    Parameters
    ----------
    config
        The run's configuration.
    shapes
        Of the network's layers and weights.
    state
        Where to start: a fresh state, or that of a checkpoint.
    on_round
        Called after every finished round.
    on_phase
        Called when a phase begins: ``gather``, ``rate base``, ``train``, ``validate``, ``test``.
    """

    def __init__(
        self,
        config: RunConfig,
        shapes: Shapes,
        state: RunState,
        on_round: OnRound,
        on_phase: OnPhase = lambda _, __: None,
    ) -> None:
        self.config = config
        self.method = config.method
        self.shapes = shapes
        self.state = state
        self.on_round = on_round
        self.on_phase = on_phase
        self.exchange = Exchange(config, state.ranks)
        self.delivery = Delivery(config, state)
        self.rule = rule_of(config, state.rating)
        self.run_rank = state.adapter.rank
        self._begin_round(state.server_round)

    def summary(self) -> None:
        """Log the method's settings."""
        m = self.method
        log(INFO, "\t├──> rating: %s, λ: %g × %g a round", m.rating, m.lambda_0, m.decay)
        log(INFO, "\t└──> merge: %s, share: %s", m.merge, m.share)

    def start(  # type: ignore[override]
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        evaluate_fn: EvaluateFn | None = None,
        **kwargs: object,
    ) -> Result:
        """Gather the sites, rate the base model and run the rounds that are left.

        Flower evaluates and returns what ``aggregate_train`` gave, the equal merge; here both are
        of the penalised re-merge, which is only known after the validation.

        Raises
        ------
        UserError
            Too few sites can take part, or are left in a round.
        """
        self.on_phase(self.state.server_round, "gather")
        self.exchange.roster.gather(grid)
        if self.state.server_round == 0 and not self.state.previous and self.method.validates:
            self._rate_base(grid)
        if evaluate_fn:
            kwargs["evaluate_fn"] = lambda *_: evaluate_fn(self.state.server_round, self.arrays())
        left = max(0, num_rounds - self.state.server_round)
        result = super().start(grid, initial_arrays, left, **kwargs)  # type: ignore[arg-type]
        result.arrays = self.arrays()
        return result

    def arrays(self) -> ArrayRecord:
        """Return the state's adapter, or weights, as Flower keeps them."""
        return records.tensors_to_record(self.state.adapter.tensors())

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the last re-merge at its rank."""
        self._begin_round(self.state.server_round + 1)  # Flower counts from 1 when resumed, too
        self.on_phase(self.state.server_round + 1, "train")
        messages = []
        for site in self.exchange.online(grid):
            rank = self.exchange.roster.rank(site)
            self.exchange.record.note(site.name, rank=rank)
            messages.append(self._message(site, records.TRAIN, self.state.merged(site.name), rank))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the adapters and merge them with equal weights."""
        self.exchange.split_time("train")
        number = self.exchange.record.server_round
        for site, reply in self.exchange.by_site(replies, "train"):
            self.exchange.record.add_bytes(site.name, up=payload(reply))
            rank = self.exchange.roster.rank(site)
            read = aggregation.reader(self.state, self.method, self.shapes, rank, number)
            try:
                self.round.accept(site.name, read_update(reply, read))
                self.delivery.trained(site.name, number)
            except ReplyError as error:
                self.delivery.failed(site.name)
                self.exchange.refuse("train", site.name, str(error))
        self.round.screen()
        self._require_sites()
        merged = self.round.merge_equally()
        self.exchange.split_time("merge")
        return records.tensors_to_record(merged.parameters.tensors()), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the equal merge at its rank, where the method rates it."""
        if not self.method.validates:
            return []
        self.on_phase(self.exchange.record.server_round, "validate")
        merged, others = self.round.equal_merge, self.round.others()
        messages = []
        for site in self.exchange.online(grid):
            rank = self.exchange.roster.rank(site)
            more = {
                records.OTHER.format(number): records.adapter_to_record(other.truncated(rank))
                for number, other in enumerate(others, start=1)
            }
            messages.append(self._message(site, records.VALIDATE, merged, rank, more))
        return messages

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Weigh the sites by what they report and merge again."""
        validation: dict[str, Validation] = {}
        if self.method.validates:
            self.exchange.split_time("validate")
            validation = self._read_validations(replies)
        self.round.settle(validation)
        self.exchange.split_time("re-merge")
        self.on_round(self.state, self.exchange.record)
        return MetricRecord({f"dice {name}": v.dice for name, v in validation.items()}) or None

    def test(self, grid: Grid) -> dict[str, dict[str, float]]:
        """Ask every site for the scores of the base and of the result on its test patients."""
        self._begin_round(self.state.server_round)
        self.on_phase(self.state.server_round, "test")
        messages = []
        for site in self.exchange.online(grid):
            rank = self.exchange.roster.rank(site) if self.method.personal else self.run_rank
            messages.append(self._message(site, records.TEST, self.state.merged(site.name), rank))
        scores = {}
        for site, reply in self.exchange.by_site(self.exchange.send(grid, messages), "test"):
            try:
                scores[site.name] = read_test(reply)
            except ReplyError as error:
                self.exchange.refuse("test", site.name, str(error))
        return scores

    def _message(
        self, site: Site, kind: str, merged: Merged, rank: int, more: Arrays = EMPTY
    ) -> Message:
        number = self.exchange.record.server_round
        arrays, folds = self.delivery.pack(site.name, kind, merged, rank, number)
        extra = {"site_rank": rank, "run_rank": self.run_rank, "folds": folds}
        return self.exchange.message(site, kind, {**arrays, **more}, **extra)

    def _rate_base(self, grid: Grid) -> None:
        """Ask for P(0), the validation of the frozen base, before round 1."""
        self._begin_round(0)
        self.on_phase(0, "rate base")
        sites = self.exchange.online(grid)
        messages = [self.exchange.message(site, records.VALIDATE, {}) for site in sites]
        validation = self._read_validations(self.exchange.send(grid, messages))
        for name, found in validation.items():
            self.state.previous[name] = found.dice
            self.exchange.record.note(name, validation=found.dice)
        self.exchange.split_time("validate")
        self.on_round(self.state, self.exchange.record)

    def _begin_round(self, number: int) -> None:
        self.exchange.begin(number)
        self.round = Round(number, self.config, self.state, self.rule, self.exchange)

    def _read_validations(self, replies: Iterable[Message]) -> dict[str, Validation]:
        validation = {}
        for site, reply in self.exchange.by_site(replies, "validate"):
            try:
                validation[site.name] = read_validation(reply)
            except ReplyError as error:
                self.exchange.refuse("validate", site.name, str(error))
        return validation

    def _require_sites(self) -> None:
        """Stop the run when too few sites are left; what was saved stays."""
        found, record = len(self.round.used), self.exchange.record
        needed = self.config.federation.min_sites
        if found >= needed:
            return
        why = "; ".join(f"{r['site']}: {r['reason']}" for r in record.refused)
        raise UserError(
            f"round {record.server_round}: {found} site(s) trained, expected at least min-sites = "
            f"{needed} ({why}); round {self.state.server_round} is saved, "
            "resume = true goes on from it"
        )
