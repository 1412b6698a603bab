"""One round of the method, without messages: first merge, validation, penalised re-merge."""

import copy
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from common.adapter import Adapter
from common.config import RunConfig
from common.messages import Update, Validation
from common.weights import Parameters
from strategies import aggregation, screening, usable, weighting
from strategies.rules.base import Masses, Rule
from strategies.state import Merged, RoundRecord, RunState


class DroppedError(Exception):
    """A round ends without a merge, as the sites could use none; the text says why."""


class Round:
    """The computation of one round, from the sites' updates to the merge that it ends with.

    Call :meth:`screen`, :meth:`merge` and :meth:`settle` once each, in this order; the first and
    the last return the facts that they add to the round's record.

    Parameters
    ----------
    number
        1 for the first round.
    config
        The run's configuration.
    state
        The run's state before the round; :meth:`settle` moves it on.
    rule
        Turns the sites' validation into masses.
    """

    def __init__(self, number: int, config: RunConfig, state: RunState, rule: Rule) -> None:
        self.number = number
        self.config = config
        self.method = config.method
        self.state = state
        self.rule = rule
        self.updates: Mapping[str, Update] = {}  # by site
        self.used: dict[str, Parameters] = {}  # what is merged, by site
        self.share: Masses = {}  # of every site in the first merge
        self.first_merge = Merged(state.parameters)  # the merge that sites validate
        self.spoilers: list[str] = []  # sites without whose updates it can be used

    def screen(self, updates: Mapping[str, Update]) -> RoundRecord:
        """Take the sites' updates; leave out or scale back those that the run's screening finds."""
        found = RoundRecord(self.number)
        self.updates = updates
        self.used = {name: update.parameters for name, update in updates.items()}
        for name, update in updates.items():
            found.note(name, examples=update.examples, train_s=update.seconds)
            told = {"loss": update.loss, "local": update.local_dice, "start": update.start_dice}
            told |= {"epsilon": update.epsilon, "delta": update.delta}
            found.note(name, **{key: value for key, value in told.items() if value is not None})
            if update.start_dice is not None and self.method.previous == "penalised":
                self.state.previous[name] = update.start_dice
        start = self.state.parameters
        sent = {name: a for name, a in self.used.items() if isinstance(a, Adapter)}
        if sent and isinstance(start, Adapter):
            screened = screening.screen(sent, start, self.config.screening)
            for name, notes in screened.notes.items():
                found.note(name, **notes)
            for name, reason in screened.refused.items():
                found.refuse(name, "merge", reason)
            self.used = dict(screened.adapters)
        return found

    def merge(self) -> Merged:
        """Return the first merge, with the shares as the masses.

        Where the sites could not use it, those whose updates spoil it are left out.

        Raises
        ------
        DroppedError
            Fewer than ``min-sites`` updates can be merged so that the sites can use the merge.
        """
        memory = copy.deepcopy(self.rule.memory)
        merged = self._first_merge()
        if merged is None:
            self._restore(memory)
            self.spoilers = usable.spoilers(self.used, self._passes)
            self.used = {name: u for name, u in self.used.items() if name not in self.spoilers}
            if len(self.used) >= self.config.federation.min_sites:
                merged = self._first_merge()
        if merged is None:
            self._restore(memory)
            raise DroppedError(
                f"no merge of {len(self.updates)} updates has values that sites take"
            )
        self.first_merge = merged
        return merged

    def drop(self) -> None:
        """End a round without a merge: the state stays as it is, and its number goes on."""
        self.state.server_round = self.number
        if self.state.folded is not None:  # what a site folded for this round would be folded twice
            self.state.held.clear()

    def _first_merge(self) -> Merged | None:
        used = {name: self.updates[name] for name in self.used}
        shares = aggregation.shares_of(used, self.method)
        self.share = self.rule.shares(self.number, shares, used)
        return self._usable(self.share)

    def _passes(self, sites: Collection[str]) -> bool:
        used = {name: self.updates[name] for name in sorted(sites)}
        return self._usable(aggregation.shares_of(used, self.method)) is not None

    def _usable(self, masses: Masses) -> Merged | None:
        """Return the merge with these masses, or None where the sites could not use it."""
        try:
            merged = self._merge(masses)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # values so far apart have no decomposition
            return None
        return merged if usable.is_usable(merged, self.state.folded) else None

    def _restore(self, memory: dict[str, Any]) -> None:
        self.rule.memory.clear()
        self.rule.memory.update(memory)

    def others(self) -> list[Adapter]:
        """Return the further adapters that every site validates, as the rule asks."""
        return [self._candidate(masses) for masses in self.rule.others(self.number, self.share)]

    def settle(self, validation: Mapping[str, Validation]) -> RoundRecord:
        """Merge again with the masses that follow from the validation, and move the state on."""
        state = self.state
        settled = self.rule.settle(self.number, self.share, validation, state.previous)
        merged = self.first_merge
        if settled.masses != self.share:
            again = self._usable(settled.masses)
            if again is None:  # the first merge passed, so the round ends with it
                unpenalised = dict.fromkeys(self.share, 1.0)
                settled = replace(settled, masses=self.share, factors=unpenalised)
            merged = again or self.first_merge
        record = RoundRecord(self.number, settled.lambda_t)
        removed = weighting.removed(self.share, settled.masses)
        for name, factor in settled.factors.items():
            record.note(name, penalty=factor, share=self.share[name], removed=removed[name])
        for name, found in validation.items():
            record.note(name, validation=found.dice, previous=state.previous.get(name))
        for name, notes in settled.notes.items():
            record.note(name, **notes)
        personal = {site: self._usable(masses) for site, masses in settled.personal.items()}
        state.personal = {site: m.parameters for site, m in personal.items() if m is not None}
        state.settle(merged, self.number)
        state.previous.update({name: found.dice for name, found in validation.items()})
        return record

    def _merge(self, masses: Masses) -> Merged:
        used = {name: update for name, update in self.used.items() if name in masses}
        return aggregation.merge(used, masses, self.method, self.state, self.number)

    def _candidate(self, masses: Masses) -> Adapter:
        """Return the merge with these masses; of one site alone it is the adapter that it sent."""
        alone = [name for name, mass in masses.items() if mass == 1.0]
        found = self.used[alone[0]] if alone else self._merge(masses).parameters
        assert isinstance(found, Adapter)
        return found
