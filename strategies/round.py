"""A round of the method: the sites' updates, their merge, what validation makes of it."""

from collections.abc import Mapping

from common.adapter import Adapter
from common.config import RunConfig
from common.weights import Parameters
from strategies import aggregation, screening
from strategies.exchange import Exchange
from strategies.penalty import removed
from strategies.replies import Update, Validation
from strategies.rules import Masses, Plain, Settled
from strategies.state import Merged, RunState


class Round:
    """What happens between the first update and the settled merge of a round.

    Parameters
    ----------
    number
        1 for the first.
    config
        Of the run.
    state
        Before the round; the one that :meth:`settle` moves on.
    rule
        How validation moves the masses.
    exchange
        Whose record is written.

    Attributes
    ----------
    updates
        By site, as they were sent.
    used
        By site, as they are merged.
    share
        By site, of the merge that is validated.
    equal_merge
        That merge.
    """

    def __init__(
        self, number: int, config: RunConfig, state: RunState, rule: Plain, exchange: Exchange
    ) -> None:
        self.number = number
        self.method = config.method
        self.screening = config.screening
        self.state = state
        self.rule = rule
        self.exchange = exchange
        self.updates: dict[str, Update] = {}
        self.used: dict[str, Parameters] = {}
        self.share: Masses = {}
        self.equal_merge = Merged(state.adapter)

    def accept(self, name: str, update: Update) -> None:
        """Keep and record what a site trained."""
        self.updates[name] = update
        facts: dict[str, float] = {
            "examples": update.examples,
            "loss": update.loss,
            "train_s": update.seconds,
        }
        if update.local_dice is not None:
            facts["local"] = update.local_dice
        if update.start_dice is not None:
            facts["start"] = update.start_dice
            if self.method.previous == "penalised":
                self.state.previous[name] = update.start_dice
        self.exchange.record.note(name, **facts)

    def screen(self) -> None:
        """Settle what of the updates is merged."""
        self.used = {name: update.parameters for name, update in self.updates.items()}
        start = self.state.adapter
        sent = {name: a for name, a in self.used.items() if isinstance(a, Adapter)}
        if not (sent and isinstance(start, Adapter)):
            return
        screened = screening.screen(sent, start, self.screening)
        for name, facts in screened.notes.items():
            self.exchange.record.note(name, **facts)
        for name, reason in screened.refused.items():
            self.exchange.refuse("merge", name, reason)
        self.used = dict(screened.adapters)

    def merge_equally(self) -> Merged:
        """Merge with the shares alone."""
        used = {name: self.updates[name] for name in self.used}
        shares = aggregation.shares_of(used, self.method)
        self.share = self.rule.shares(self.number, shares, used)
        self.equal_merge = self._merge(self.share)
        return self.equal_merge

    def others(self) -> list[Adapter]:
        """Return further adapters for every site to validate."""
        return [self._candidate(masses) for masses in self.rule.others(self.share)]

    def settle(self, validation: Mapping[str, Validation]) -> None:
        """Merge again with what validation makes of the masses, and move the state on."""
        state = self.state
        settled = self.rule.settle(self.number, self.share, validation, state.previous)
        self._note(settled, validation)
        merged = self.equal_merge if settled.masses == self.share else self._merge(settled.masses)
        personal = {site: self._merge(masses) for site, masses in settled.personal.items()}
        state.personal = {site: m.parameters for site, m in personal.items()}
        state.settle(merged, self.number)
        state.previous.update({name: found.dice for name, found in validation.items()})

    def _note(self, settled: Settled, validation: Mapping[str, Validation]) -> None:
        record = self.exchange.record
        record.lambda_t = settled.lambda_t
        taken = removed(self.share, settled.masses)
        for name, weight in settled.weights.items():
            record.note(name, weight=weight, share=self.share[name], removed=taken[name])
        for name, found in validation.items():
            record.note(name, validation=found.dice, previous=self.state.previous.get(name))
        for name, notes in settled.notes.items():
            record.note(name, **notes)

    def _merge(self, masses: Masses) -> Merged:
        return aggregation.merge(self.used, masses, self.method, self.state, self.number)

    def _candidate(self, masses: Masses) -> Adapter:
        """Return a merge as an adapter; that of one site alone is the one that it sent."""
        alone = [name for name, mass in masses.items() if mass == 1.0]
        found = self.used[alone[0]] if alone else self._merge(masses).parameters
        assert isinstance(found, Adapter)
        return found
