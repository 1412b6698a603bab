"""Rate-My-LoRA as a Flower strategy: train, equal merge, validate, penalty, re-merge.

Source: He et al., "Rate-My-LoRA", ISBI 2025, arXiv 2501.03223. The equations are in
:mod:`strategies.merging` and :mod:`strategies.penalty`; the hooks here move messages.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import records
from common.adapter import Adapter
from common.config import RunConfig
from common.errors import UserError
from strategies import merging, penalty
from strategies.replies import (
    ReplyError,
    Update,
    payload,
    read_test,
    read_update,
    read_validation,
)
from strategies.roster import Roster, Site
from strategies.state import RoundRecord, RunState

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
OnRound = Callable[[RunState, RoundRecord], None]
"""Called after every finished round; what it saves is what a crash cannot take."""


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
    """

    def __init__(
        self,
        config: RunConfig,
        shapes: Mapping[str, tuple[int, int]],
        state: RunState,
        on_round: OnRound,
    ) -> None:
        self.config = config
        self.method = config.method
        self.shapes = shapes
        self.state = state
        self.on_round = on_round
        self.roster = Roster(config, state.ranks)
        self.record = RoundRecord(0)
        self.updates: dict[str, Update] = {}
        self.share: dict[str, float] = {}
        self.equal_merge = state.adapter
        self._clock = time.monotonic()

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
        self.roster.gather(grid)
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
        messages = []
        for site in self._online(grid):
            rank = self.roster.rank(site)
            self.record.note(site.name, rank=rank)
            messages.append(self._message(site, records.TRAIN, self.state.adapter, rank))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check the adapters and merge them with equal weights."""
        self._split_time("train")
        for site, reply in self._by_site(replies, "train"):
            self.record.add_bytes(site.name, up=payload(reply))
            try:
                update = read_update(
                    reply, self.state.adapter.scale, self.shapes, self.roster.rank(site)
                )
            except ReplyError as error:
                self._refuse("train", site.name, str(error))
                continue
            self.updates[site.name] = update
            self.record.note(
                site.name, examples=update.examples, loss=update.loss, train_s=update.seconds
            )
            if self.method.previous == "penalised" and update.start_dice is not None:
                self.state.previous[site.name] = update.start_dice
        self._require_sites()
        examples = {name: update.examples for name, update in self.updates.items()}
        self.share = merging.shares(examples, self.method.share)
        self.equal_merge = self._merge(dict.fromkeys(self.updates, 1.0))
        self._split_time("merge")
        return records.adapter_to_record(self.equal_merge), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the equal merge at its rank."""
        return [
            self._message(site, records.VALIDATE, self.equal_merge, self.roster.rank(site))
            for site in self._online(grid)
        ]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Weigh the sites by what they report and merge again."""
        self._split_time("validate")
        validation = self._read_validations(replies)
        weights = penalty.site_weights(
            self.updates, validation, self.state.previous, self.record.lambda_t
        )
        for name, weight in weights.items():
            self.record.note(name, weight=weight, share=self.share[name])
        for name, dice in validation.items():
            self.record.note(name, validation=dice, previous=self.state.previous.get(name))
        damped = any(weight != 1.0 for weight in weights.values())
        self.state.adapter = self._merge(weights) if damped else self.equal_merge
        self.state.previous.update(validation)
        self.state.server_round = self.record.server_round
        self._split_time("re-merge")
        self.on_round(self.state, self.record)
        return MetricRecord({f"dice {name}": dice for name, dice in validation.items()}) or None

    def test(self, grid: Grid) -> dict[str, dict[str, float]]:
        """Ask every site for the scores of the base and of the result on its test patients."""
        self._begin_round(self.state.server_round)
        adapter = self.state.adapter
        messages = [
            self._message(site, records.TEST, adapter, adapter.rank) for site in self._online(grid)
        ]
        scores = {}
        for site, reply in self._by_site(self._exchange(grid, messages), "test"):
            try:
                scores[site.name] = read_test(reply)
            except ReplyError as error:
                self._refuse("test", site.name, str(error))
        return scores

    def _rate_base(self, grid: Grid) -> None:
        """Ask for P(0), the validation of the frozen base, before round 1."""
        self._begin_round(0)
        sites = self._online(grid)
        messages = [self._message(site, records.VALIDATE, None, 0) for site in sites]
        validation = self._read_validations(self._exchange(grid, messages))
        for name, dice in validation.items():
            self.record.note(name, validation=dice)
        self.state.previous = validation
        self._split_time("validate")
        self.on_round(self.state, self.record)

    def _merge(self, weights: Mapping[str, float]) -> Adapter:
        normalise = merging.normalises(self.method.normalise, self.method.merge)
        mass = merging.masses(self.share, weights, normalise=normalise)
        adapters = {name: update.adapter for name, update in self.updates.items()}
        return merging.merge(adapters, mass, self.method.merge, self.state.adapter.rank)

    def _begin_round(self, number: int) -> None:
        lambda_t = penalty.damping(self.method.lambda_0, self.method.decay, max(number, 1))
        self.record = RoundRecord(number, lambda_t if number else 0.0)
        self.updates = {}
        self._clock = time.monotonic()

    def _message(self, site: Site, kind: str, adapter: Adapter | None, rank: int) -> Message:
        extra = {"server-round": self.record.server_round, "site-rank": rank}
        content = RecordDict({records.CONFIG: records.config_to_record(self.config, **extra)})
        if adapter is not None:
            content[records.ADAPTER] = records.adapter_to_record(adapter.truncated(rank))
        message = Message(content, dst_node_id=site.node_id, message_type=kind)
        self.record.add_bytes(site.name, down=payload(message))
        return message

    def _exchange(self, grid: Grid, messages: list[Message]) -> Iterable[Message]:
        return grid.send_and_receive(messages, timeout=self.method.round_timeout_s)

    def _by_site(self, replies: Iterable[Message], phase: str) -> list[tuple[Site, Message]]:
        """Return replies with their sites, by name; sites silent or gone are recorded."""
        by_node = {reply.metadata.src_node_id: reply for reply in replies}
        found = []
        for site in sorted(self.roster.sites.values(), key=lambda site: site.name):
            if site.node_id in by_node:
                found.append((site, by_node[site.node_id]))
            else:
                self._refuse(phase, site.name, "no answer")
        return found

    def _read_validations(self, replies: Iterable[Message]) -> dict[str, float]:
        validation = {}
        for site, reply in self._by_site(replies, "validate"):
            try:
                validation[site.name] = read_validation(reply)
            except ReplyError as error:
                self._refuse("validate", site.name, str(error))
        return validation

    def _require_sites(self) -> None:
        """Stop the run when too few sites are left; what was saved stays."""
        if len(self.updates) >= self.method.min_sites:
            return
        why = "; ".join(f"{r['site']}: {r['reason']}" for r in self.record.refused)
        raise UserError(
            f"round {self.record.server_round}: {len(self.updates)} site(s) trained, expected at "
            f"least min-sites = {self.method.min_sites} ({why}); round "
            f"{self.state.server_round} is saved, resume = true goes on from it"
        )

    def _refuse(self, phase: str, site: str, reason: str) -> None:
        self.record.refuse(site, phase, reason)
        log(WARNING, "%s is left out of %s: %s", site, phase, reason)

    def _online(self, grid: Grid) -> list[Site]:
        """Return the sites to send to, and record who was turned away since the last time."""
        sites = self.roster.online(grid)
        for name, reason in self.roster.refusals:
            self._refuse("join", name, reason)
        self.roster.refusals.clear()
        return sites

    def _split_time(self, phase: str) -> None:
        now = time.monotonic()
        self.record.seconds[phase] = round(now - self._clock, 3)
        self._clock = now
