"""The privacy ledger of a site: what the noisy training of all its runs has spent so far."""

import hashlib
import json
import math
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TypeGuard

from filelock import FileLock

from client_app.settings import LimitError, PrivacySettings, SiteSettings
from common.errors import UserError
from common.files import parse_json, write_text
from common.messages import SPENT

Entry = tuple[float, float, int]
"""Noise multiplier, sampling rate and number of steps."""
ORDERS = [1 + x / 20 for x in range(1, 200)] + [float(x) for x in (*range(11, 64), 96, 128, 256)]
"""Orders of Rényi divergence among which the accountant finds the best."""


def epsilon(entries: Iterable[Entry], delta: float) -> float:
    """Return the ε of all these steps together, at this δ.

    A neighbouring data set is one in which one patient's gradients are zero. Opacus adds up the
    Rényi divergences of the sampled Gaussian mechanism: Mironov et al., arXiv 1908.10530.
    """
    from opacus.accountants import RDPAccountant  # noqa: PLC0415  (seconds, only with noise)

    accountant = RDPAccountant()
    accountant.history = list(entries)
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # best order at an end
        return max(0.0, float(accountant.get_epsilon(delta, alphas=ORDERS)))


class PrivacyLedger:
    """The steps of all runs of a site, in a file that outlives every run.

    Parameters
    ----------
    folder
        The site's ``cache-dir``, in which the file is ``privacy-….json``. A site that loses it
        begins to count again from zero, so it belongs into backups.
    site
        The site's name.
    settings
        The site's settings of privacy.
    """

    def __init__(self, folder: Path, site: str, settings: PrivacySettings) -> None:
        digest = hashlib.sha256(site.encode()).hexdigest()[:16]
        self.path = folder / f"privacy-{digest}.json"
        self.settings = settings

    def spent(self) -> float:
        """Return the ε of all steps so far; raises UserError where the file is damaged."""
        return epsilon(self._read(), self.settings.delta)

    def spend(self, steps: int) -> float:
        """Enter steps that are about to be taken; return the ε of all steps with them.

        They are on the disk when this returns, so a training that is killed has been counted.

        Raises
        ------
        LimitError
            The ε would exceed the site's limit; then nothing is entered.
        UserError
            The file is damaged or cannot be written.
        """
        own = self.settings
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self.path}.lock"):
            counted = {(noise, rate): number for noise, rate, number in self._read()}
            now = (own.noise_multiplier, own.sampling_rate)
            counted[now] = counted.get(now, 0) + steps
            entries = [(*key, number) for key, number in counted.items()]
            after = epsilon(entries, own.delta)
            if not after <= own.max_epsilon:
                raise LimitError(SPENT)
            write_text(self.path, json.dumps({"steps": entries}) + "\n")
        return after

    def _read(self) -> list[Entry]:
        try:
            found = parse_json(self.path.read_text("utf-8"))["steps"]
            if all(map(_is_entry, found)):
                return [(noise, rate, number) for noise, rate, number in found]
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UserError(f"{self.path}: not a privacy ledger; the site does not train without it")


def budget(settings: SiteSettings) -> str:
    """Return in a sentence what a deployed site has spent; raises UserError as the ledger does."""
    own = settings.privacy
    spent = PrivacyLedger(Path(settings.cache_dir).expanduser(), settings.name, own).spent()
    return f"privacy: ε = {spent:.2f} of {own.max_epsilon:g} is spent, at δ = {own.delta:g}"


def _is_entry(found: object) -> TypeGuard[Entry]:
    if not (isinstance(found, list) and len(found) == 3):
        return False
    noise, rate, number = found
    numbers = all(type(value) in (int, float) and math.isfinite(value) for value in (noise, rate))
    return numbers and noise > 0 and 0 < rate <= 1 and type(number) is int and number > 0
