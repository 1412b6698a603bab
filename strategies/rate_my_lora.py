"""Rate-My-LoRA as a Flower strategy: train, equal merge, validate, penalty, re-merge.

Source: He et al., "Rate-My-LoRA", ISBI 2025, arXiv 2501.03223. The equations are in
:mod:`strategies.merging` and :mod:`strategies.penalty`; the hooks here move messages.
"""

from collections.abc import Callable, Iterable, Mapping
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from strategies import merging, penalty, screening
from strategies.exchange import Exchange
from strategies.replies import ReplyError, Update, payload, read_test, read_update, read_validation
from strategies.state import RoundRecord, RunState

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
OnRound = Callable[[RunState, RoundRecord], None]
"""Called after every finished round; what it saves is what a crash cannot take."""
OnPhase = Callable[[int, str], None]
"""Called with (server round, phase) when a phase begins."""


class RateMyLoRA(Strategy):
    """The two-phase aggregation of DESIGN §1.

    Parameters
    ----------
    config
        The run's configuration.
    shapes
        (c_out, c_in·k·k) of every adapted layer.
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
        shapes: Mapping[str, tuple[int, int]],
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
        self.updates: dict[str, Update] = {}  # as they were sent
        self.adapters: dict[str, Adapter] = {}  # as they are merged
        self.share: dict[str, float] = {}
        self.equal_merge = state.adapter

    def summary(self) -> None:
        """Log the method's settings."""
        m = self.method
        log(INFO, "\t├──> λ: %g × %g a round", m.lambda_0, m.decay)
        log(INFO, "\t└──> merge: %s, share: %s, previous: %s", m.merge, m.share, m.previous)

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
        if self.state.server_round == 0 and not self.state.previous:
            self._rate_base(grid)
        if evaluate_fn:
            kwargs["evaluate_fn"] = lambda *_: evaluate_fn(
                self.state.server_round, records.adapter_to_record(self.state.adapter)
            )
        left = max(0, num_rounds - self.state.server_round)
        result = super().start(grid, initial_arrays, left, **kwargs)  # type: ignore[arg-type]
        result.arrays = records.adapter_to_record(self.state.adapter)
        return result

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
            messages.append(self.exchange.message(site, records.TRAIN, self.state.adapter, rank))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the adapters and merge them with equal weights."""
        self.exchange.split_time("train")
        for site, reply in self.exchange.by_site(replies, "train"):
            self.exchange.record.add_bytes(site.name, up=payload(reply))
            rank = self.exchange.roster.rank(site)
            try:
                update = read_update(reply, self.state.adapter.scale, self.shapes, rank)
            except ReplyError as error:
                self.exchange.refuse("train", site.name, str(error))
                continue
            self.updates[site.name] = update
            self.exchange.record.note(
                site.name, examples=update.examples, loss=update.loss, train_s=update.seconds
            )
            if update.local_dice is not None:
                self.exchange.record.note(site.name, local=update.local_dice)
            if self.method.previous == "penalised" and update.start_dice is not None:
                self.state.previous[site.name] = update.start_dice
        self._screen()
        self._require_sites()
        examples = {name: self.updates[name].examples for name in self.adapters}
        self.share = merging.shares(examples, self.method.share)
        self.equal_merge = self._merge(dict.fromkeys(self.adapters, 1.0))
        self.exchange.split_time("merge")
        return records.adapter_to_record(self.equal_merge), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the equal merge at its rank."""
        self.on_phase(self.exchange.record.server_round, "validate")
        rank = self.exchange.roster.rank
        return [
            self.exchange.message(site, records.VALIDATE, self.equal_merge, rank(site))
            for site in self.exchange.online(grid)
        ]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Weigh the sites by what they report and merge again."""
        self.exchange.split_time("validate")
        validation = self._read_validations(replies)
        record, previous = self.exchange.record, self.state.previous
        rated = screening.rated(validation, previous, self.method.rating_check)
        weights = penalty.site_weights(self.adapters, rated, previous, record.lambda_t)
        for name, weight in weights.items():
            record.note(name, weight=weight, share=self.share[name])
        for name, dice in validation.items():
            unrated = {} if name in rated else {"unrated": True}
            record.note(name, validation=dice, previous=previous.get(name), **unrated)
        damped = any(weight != 1.0 for weight in weights.values())
        self.state.adapter = self._merge(weights) if damped else self.equal_merge
        previous.update(validation)
        self.state.server_round = record.server_round
        self.exchange.split_time("re-merge")
        self.on_round(self.state, record)
        return MetricRecord({f"dice {name}": dice for name, dice in validation.items()}) or None

    def test(self, grid: Grid) -> dict[str, dict[str, float]]:
        """Ask every site for the scores of the base and of the result on its test patients."""
        self._begin_round(self.state.server_round)
        self.on_phase(self.state.server_round, "test")
        adapter = self.state.adapter
        messages = [
            self.exchange.message(site, records.TEST, adapter, adapter.rank)
            for site in self.exchange.online(grid)
        ]
        scores = {}
        for site, reply in self.exchange.by_site(self.exchange.send(grid, messages), "test"):
            try:
                scores[site.name] = read_test(reply)
            except ReplyError as error:
                self.exchange.refuse("test", site.name, str(error))
        return scores

    def _rate_base(self, grid: Grid) -> None:
        """Ask for P(0), the validation of the frozen base, before round 1."""
        self._begin_round(0)
        self.on_phase(0, "rate base")
        sites = self.exchange.online(grid)
        messages = [self.exchange.message(site, records.VALIDATE, None, 0) for site in sites]
        validation = self._read_validations(self.exchange.send(grid, messages))
        for name, dice in validation.items():
            self.exchange.record.note(name, validation=dice)
        self.state.previous = validation
        self.exchange.split_time("validate")
        self.on_round(self.state, self.exchange.record)

    def _screen(self) -> None:
        """Settle what of the updates is merged."""
        sent = {name: update.adapter for name, update in self.updates.items()}
        screened = screening.screen(sent, self.state.adapter, self.method)
        for name, facts in screened.notes.items():
            self.exchange.record.note(name, **facts)
        for name, reason in screened.refused.items():
            self.exchange.refuse("merge", name, reason)
        self.adapters = screened.adapters

    def _merge(self, weights: Mapping[str, float]) -> Adapter:
        normalise = merging.normalises(self.method.normalise, self.method.merge)
        mass = merging.masses(self.share, weights, normalise=normalise)
        rank = self.state.adapter.rank  # what was scaled back has a higher one
        return merging.merge(self.adapters, mass, self.method.merge, rank).truncated(rank)

    def _begin_round(self, number: int) -> None:
        lambda_t = penalty.damping(self.method.lambda_0, self.method.decay, max(number, 1))
        self.exchange.begin(number, lambda_t if number else 0.0)
        self.updates = {}

    def _read_validations(self, replies: Iterable[Message]) -> dict[str, float]:
        validation = {}
        for site, reply in self.exchange.by_site(replies, "validate"):
            try:
                validation[site.name] = read_validation(reply)
            except ReplyError as error:
                self.exchange.refuse("validate", site.name, str(error))
        return validation

    def _require_sites(self) -> None:
        """Stop the run when too few sites are left; what was saved stays."""
        if len(self.adapters) >= self.method.min_sites:
            return
        record = self.exchange.record
        why = "; ".join(f"{r['site']}: {r['reason']}" for r in record.refused)
        raise UserError(
            f"round {record.server_round}: {len(self.adapters)} site(s) trained, expected at least "
            f"min-sites = {self.method.min_sites} ({why}); round "
            f"{self.state.server_round} is saved, resume = true goes on from it"
        )
