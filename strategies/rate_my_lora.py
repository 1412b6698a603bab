"""Rate-My-LoRA as a Flower strategy: train, first merge, validate, penalty, re-merge.

Source: He et al., "Rate-My-LoRA", ISBI 2025, arXiv 2501.03223. Flower calls four hooks a round;
they move messages, and :class:`strategies.round.Round` computes.

``configure_train``     sends every site the adapter of the last round; each trains it.
``aggregate_train``     makes the first merge, in which every site has its full share:
                        ``Round.merge``, :mod:`strategies.merging`.
``configure_evaluate``  sends every site the first merge; each validates it on its own patients.
``aggregate_evaluate``  turns the sites' Dice into penalties (Eq. 1:
                        :mod:`strategies.rules.penalty`) and merges again: ``Round.settle``.

The other methods of :mod:`strategies.methods` use the same strategy. They differ in what is sent
(:mod:`strategies.delivery`), merged (:mod:`strategies.aggregation`) or rated
(:mod:`strategies.rules`).
"""

from collections.abc import Callable, Iterable
from functools import partial
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from common import messages, records
from common.config import RunConfig
from common.errors import UserError
from common.messages import ANSWERED, R, ReplyError, Request, Update, Validation, read_reply
from common.model import skeleton
from common.options import Value
from common.weights import Parameters, Weights
from strategies import aggregation
from strategies.aggregation import Shapes
from strategies.delivery import Delivery
from strategies.exchange import Exchange
from strategies.grid import SiteGrid
from strategies.methods import preset_keys
from strategies.roster import Member
from strategies.round import DroppedError, Round
from strategies.rules import rule_of
from strategies.state import Merged, RoundRecord, RunState
from strategies.usable import SPOILS

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]
OnRound = Callable[[RunState, RoundRecord], None]
"""Called with the run's state and the round's record after every finished round, to save them."""
OnPhase = Callable[[int, str], None]
"""Called with the server round and the phase when a phase begins: ``gather``, ``rate base``,
``train``, ``validate`` or ``test``."""


class RateMyLoRA(Strategy):
    """Federated LoRA that merges twice a round: before the sites validate, and after.

    Parameters
    ----------
    config
        The run's configuration; the default is the demo's. It travels to the sites.
    shapes
        Shapes of the network's layers and weights; the default is the configuration's U-Net.
    state
        The state to start from, such as a checkpoint's; the default has the initial adapter.
    on_round, on_phase
        See ``OnRound`` and ``OnPhase``.
    **keys
        Keys of :mod:`common.config` and :mod:`common.method`, with underscores, that replace those
        in ``config``, such as ``rounds``, ``lambda_0``, ``merge``, ``share`` or ``min_sites``;
        ``preset`` sets those of a method in :mod:`strategies.methods`.

    Raises
    ------
    UserError
        A key or preset is unknown, or a value is of the wrong type or out of range.

    Examples
    --------
    >>> strategy = RateMyLoRA(rounds=20, lambda_0=0.2, merge="svd", min_sites=3)
    >>> result = strategy.start(grid)
    """

    def __init__(
        self,
        config: RunConfig | None = None,
        *,
        shapes: Shapes | None = None,
        state: RunState | None = None,
        on_round: OnRound = lambda _, __: None,
        on_phase: OnPhase = lambda _, __: None,
        **keys: Value,
    ) -> None:
        flat = {name.replace("_", "-"): value for name, value in keys.items()}
        if flat.get("profile"):
            raise UserError("RateMyLoRA: profile: is of server_app, expected the profile's keys")
        flat = {**preset_keys(flat.get("preset", ""), "RateMyLoRA"), **flat}
        base = config or RunConfig()
        self.config = config = RunConfig.from_flat({**base.to_flat(), **flat}, "RateMyLoRA")
        self.method = config.method
        self.shapes = shapes or Shapes.of(skeleton(config.model.channels()))
        self.state = state or RunState.initial(config, self.shapes.layers)
        self.on_round = on_round
        self.on_phase = on_phase
        self.exchange = Exchange(config, self.state)
        self.run_rank = self.state.parameters.rank
        self.delivery = Delivery(config, self.state, self.run_rank)
        self.rule = rule_of(config, self.state.rating)
        self._begin_round(self.state.server_round)

    def summary(self) -> None:
        """Log the method's settings."""
        m = self.method
        log(INFO, "\t├──> rating: %s, λ: %g × %g a round", m.rating, m.lambda_0, m.decay)
        log(INFO, "\t└──> merge: %s, share: %s", m.merge, m.share)

    def start(  # type: ignore[override]
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Gather the sites, rate the base model and run the rounds that are left.

        Flower's own ``start`` evaluates and returns the result of ``aggregate_train``, which is the
        first merge. This one evaluates and returns the penalised re-merge. There is no
        ``train_config`` or ``evaluate_config``: sites get the run's configuration.

        Parameters
        ----------
        grid
            The grid that Flower gives the ServerApp.
        initial_arrays
            The adapter or weights to start from, in the form of :meth:`arrays`; the default is the
            state's.
        num_rounds, timeout
            Rounds in all, and seconds to wait for the sites in each phase of a round; the defaults
            are the configuration's ``rounds`` and ``round-timeout-s``.
        evaluate_fn
            Called with the round and the re-merge, before the first round and after every round.

        Returns
        -------
        Result
            The last re-merge in ``arrays``, and each site's validation Dice by round in
            ``evaluate_metrics_clientapp``.

        Raises
        ------
        UserError
            Too few sites can take part or are left in a round, or the initial arrays do not fit.
        """
        if initial_arrays is not None:
            self.state.parameters = self._read_initial(initial_arrays)
        grid = self._own(grid)
        self.on_phase(self.state.server_round, "gather")
        self.exchange.roster.gather(grid)
        if self.state.server_round == 0 and not self.state.previous and self.method.validates:
            self._rate_base(grid)
        rounds = self.config.federation.rounds if num_rounds is None else num_rounds
        result = super().start(
            grid,
            self.arrays(),
            max(0, rounds - self.state.server_round),
            self.config.federation.round_timeout_s if timeout is None else timeout,
            evaluate_fn=evaluate_fn
            and (lambda *_: evaluate_fn(self.state.server_round, self.arrays())),
        )
        result.arrays = self.arrays()
        return result

    def arrays(self) -> ArrayRecord:
        """Return the run's present adapter or weights in Flower's form."""
        return records.tensors_to_record(self.state.parameters.tensors())

    def _read_initial(self, arrays: ArrayRecord) -> Parameters:
        before, shapes = self.state.parameters, self.shapes
        try:
            if isinstance(before, Weights):
                return Weights(records.record_to_named(arrays, shapes.weights))
            return records.record_to_adapter(arrays, before.scale, shapes.layers, before.rank)
        except ValueError as error:
            raise UserError(f"initial_arrays: {error}") from None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the last round's re-merge, cut to the site's rank, to train."""
        self._begin_round(self.state.server_round + 1)  # Flower counts from 1 when resumed, too
        self.on_phase(self.state.server_round + 1, "train")
        sent = []
        for site in self.exchange.online(grid):
            rank = self.exchange.roster.rank(site)
            self.exchange.record.note(site.name, rank=rank)
            if self.method.keeps_own or self.method.folds:
                self.exchange.record.note(site.name, held=self.state.held.get(site.name, 0))
            sent.append(self._message(site, messages.Train, self.state.merged(site.name), rank))
        return sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check what the sites trained and make the first merge, with the shares alone."""
        self.exchange.split_time("train")
        number = self.exchange.record.server_round

        def read(site: Member, content: RecordDict) -> Update:
            rank = self.exchange.roster.rank(site)
            arrays = aggregation.reader(self.state, self.method, self.shapes, rank, number)
            update = Update.from_record(content, arrays)
            update.check()
            if update.examples != (described := site.facts.train_examples):
                self.exchange.roster.ask_again(site)
                raise ReplyError(
                    f"num-examples is {update.examples}, the site described {described}"
                )
            return update

        updates = self._read("train", replies, read)
        self.state.held.update(dict.fromkeys(updates, number))
        self._put_on_record(self.round.screen(updates))
        try:
            self._require_sites()
            merged = self.round.merge()
        except DroppedError as error:
            self.exchange.record.dropped = str(error)
            log(WARNING, "round %d is dropped: %s", number, error)
            return None, None
        finally:
            for name in self.round.spoilers:
                self.exchange.refuse("merge", name, SPOILS)
            self.exchange.split_time("merge")
        return records.tensors_to_record(merged.parameters.tensors()), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Send every site the first merge, cut to its rank, where the method validates it."""
        if not self.method.validates or self.exchange.record.dropped:
            return []
        self.on_phase(self.exchange.record.server_round, "validate")
        merged, others = self.round.first_merge, self.round.others()
        self._others = len(others)
        sent = []
        for site in self.exchange.online(grid):
            rank = self.exchange.roster.rank(site)
            more = tuple(records.adapter_to_record(other.truncated(rank)) for other in others)
            sent.append(self._message(site, messages.Validate, merged, rank, more))
        return sent

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Turn the sites' Dice into masses, merge again with these, and end the round."""
        validation: dict[str, Validation] = {}
        if self.exchange.record.dropped:
            self.round.drop()
            self.on_round(self.state, self.exchange.record)
            return None
        if self.method.validates:
            self.exchange.split_time("validate")
            validation = self._read_validations(replies)
        self._put_on_record(self.round.settle(validation))
        self.exchange.split_time("re-merge")
        self.on_round(self.state, self.exchange.record)
        return MetricRecord({f"dice {name}": v.dice for name, v in validation.items()}) or None

    def test(self, grid: Grid) -> dict[str, dict[str, float]]:
        """Return by site the scores of the base and of the result on its test patients."""
        grid = self._own(grid)
        self._begin_round(self.state.server_round)
        self.on_phase(self.state.server_round, "test")
        sent = []
        for site in self.exchange.online(grid):
            rank = self.exchange.roster.rank(site) if self.method.personal else self.run_rank
            sent.append(self._message(site, messages.Test, self.state.merged(site.name), rank))
        replies = self.exchange.send(grid, sent)
        found = self._read("test", replies, lambda _, c: messages.TestScores.from_record(c))
        return {site: scores.numbers() for site, scores in found.items()}

    def _own(self, grid: Grid) -> Grid:
        return SiteGrid(grid, lambda message: aggregation.most_bytes(message, self.shapes))

    def _message(
        self,
        site: Member,
        kind: type[Request],
        merged: Merged | None = None,
        rank: int = 0,
        others: tuple[ArrayRecord, ...] = (),
    ) -> Message:
        number = self.exchange.record.server_round
        request = self.delivery.pack(kind, number, site.name, rank, merged, others)
        return self.exchange.message(site, request)

    def _read(
        self, phase: str, replies: Iterable[Message], read: Callable[[Member, RecordDict], R]
    ) -> dict[str, R]:
        """Return the sound replies by site name; put the others on record as refused."""
        found = {}
        for site, reply in self.exchange.by_site(replies, phase):
            try:
                found[site.name] = read_reply(reply, partial(read, site))
            except ReplyError as error:
                if error.lost:  # from now on the site is sent everything, as a newcomer is
                    self.state.held.pop(site.name, None)
                self.exchange.refuse(phase, site.name, str(error))
        return found

    def _rate_base(self, grid: Grid) -> None:
        """Ask for P(0), the validation of the frozen base, before round 1."""
        self._begin_round(0)
        self.on_phase(0, "rate base")
        sent = [self._message(site, messages.Validate) for site in self.exchange.online(grid)]
        validation = self._read_validations(self.exchange.send(grid, sent))
        for name, found in validation.items():
            self.state.previous[name] = found.dice
            self.exchange.record.note(name, validation=found.dice)
        self.exchange.split_time("validate")
        self.on_round(self.state, self.exchange.record)

    def _begin_round(self, number: int) -> None:
        self.exchange.begin(number)
        self.round = Round(number, self.config, self.state, self.rule)
        self._others = 0  # number of adapters that sites validate beside the merge

    def _put_on_record(self, found: RoundRecord) -> None:
        record = self.exchange.record
        record.lambda_t = found.lambda_t
        for name, facts in found.sites.items():
            record.note(name, **facts)
        for refused in found.refused:
            self.exchange.refuse(refused["phase"], refused["site"], refused["reason"])

    def _read_validations(self, replies: Iterable[Message]) -> dict[str, Validation]:
        return self._read("validate", replies, lambda _, c: Validation.from_record(c, self._others))

    def _require_sites(self) -> None:
        """Raise UserError when too few sites are left in a round; the saved rounds stay.

        Raises DroppedError where there are enough with those that answered the round before. So do
        the sites of a run that went back to an older checkpoint: they answer each round once, and
        take part again in the first round that is new to them.
        """
        found, record = len(self.round.used), self.exchange.record
        needed = self.config.federation.min_sites
        if found >= needed:
            return
        before = sum(r["phase"] == "train" and r["reason"] == ANSWERED for r in record.refused)
        if found + before >= needed:
            raise DroppedError(f"{before} sites answered another request for this round before")
        why = "; ".join(f"{r['site']}: {r['reason']}" for r in record.refused)
        raise UserError(
            f"round {record.server_round}: {found} site(s) trained, expected at least min-sites = "
            f"{needed} ({why}); round {self.state.server_round} is saved, "
            "resume = true goes on from it"
        )
