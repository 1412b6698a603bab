"""The rules that turn a round's validation into the masses of its merge, one file a ``rating``.

Each file holds the equations, as pure functions, and the rule's class, which keeps what it carries
from round to round. A new rule needs a file here, an entry in ``RULES``, and its name among the
choices of ``rating`` in :mod:`common.method`.
"""

from typing import Any

from common.config import RunConfig
from strategies.rules.base import Rule
from strategies.rules.gap import Gap
from strategies.rules.penalty import Penalty
from strategies.rules.recipient import Recipient
from strategies.rules.search import Search

RULES = {"none": Rule, "penalty": Penalty, "gap": Gap, "search": Search, "recipient": Recipient}


def rule_of(config: RunConfig, memory: dict[str, Any]) -> Rule:
    """Return the rule that a run's ``rating`` names."""
    return RULES[config.method.rating](config, memory)
