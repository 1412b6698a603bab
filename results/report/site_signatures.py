"""Signatures of trouble in what the sites got out of it."""

import numpy as np

from common.text import signed
from results.report.finding import LEAST_CHANGE, Finding, listed
from results.report.patients import Patients
from results.run_reader import RunFiles, mean

WORSE_THAN_ALONE = 0.02
"""Dice by which a site's own adapter must beat the merge; training on one's own data last gives
a little by itself."""
DRIFT = 0.005
"""Least rise of in-client and fall of cross-client Dice over the run, along fitted lines."""
DRIFT_ROUNDS = 3
"""Rounds that such a line needs."""


def no_site_gained(run: RunFiles) -> Finding | None:
    """Fire where no site's test Dice rose over the base by more than ``LEAST_CHANGE``."""
    gains = run.gains()
    if not gains or max(gains.values()) > LEAST_CHANGE:
        return None
    return Finding(
        "No site gained over the base model.",
        _gains_text(gains) + ".",
        "See whether the training loss falls. If it does not, raise learning-rate or rank; if it "
        "does, the adapters overfit: fewer local-epochs, augment, a lower rank. A base that "
        "already suits all sites leaves nothing to gain.",
    )


def sites_that_lost(run: RunFiles) -> Finding | None:
    """Fire where a site's test Dice fell below the base's by more than ``LEAST_CHANGE``."""
    gains = run.gains()
    lost = {site: gain for site, gain in gains.items() if gain < -LEAST_CHANGE}
    if not lost or max(gains.values()) <= LEAST_CHANGE:  # the other finding says it
        return None
    return Finding(
        f"{listed(lost)} lost while {'others' if len(gains) > 2 else 'the other'} gained.",
        _gains_text(lost) + " mean test Dice against the base.",
        "Raise lambda-0 so that gains at others' cost count less, give these sites a higher rank, "
        "or let them keep the base or an adapter of their own. Look at their single patients "
        "first: one failed case can make such a mean.",
    )


def merge_worse_than_alone(run: RunFiles, patients: Patients | None) -> Finding | None:
    """Fire where sites' own adapters beat the merge on their patients by ``WORSE_THAN_ALONE``.

    On validation patients in the mean of the last third of the rounds, where sites report it
    (``local``), and on test patients, where the sites' own adapters were kept.
    """
    told = []
    for site in run.sites:
        merged = dict(run.series(site, "validation"))
        ahead = [own - merged[t] for t, own in run.series(site, "local") if t in merged and t > 0]
        late = ahead[-max(1, len(ahead) // 3) :]
        if late and mean(late) >= WORSE_THAN_ALONE:
            told.append(
                f"{site}: own adapter {signed(mean(late))} on its validation patients in the last "
                f"{len(late)} round{'s' if len(late) > 1 else ''}"
            )
    if patients and patients.transfer:
        for site, scores in patients.transfer.own.items():
            lead = scores[site] - patients.score(site, "result", "dice", "mean")
            if lead >= WORSE_THAN_ALONE:
                told.append(f"{site}: own adapter {signed(lead)} on its test patients")
    if not told:
        return None
    return Finding(
        "The merge is worse than a site's own adapter.",
        "; ".join(told) + ", against the merge.",
        "The sites are too different for one adapter: federate groups of similar sites (another "
        "split-by), or let these sites keep their own adapter.",
    )


def overfitting_adapters(patients: Patients | None) -> Finding | None:
    """Fire where in-client Dice rises over the rounds while cross-client Dice falls.

    Both by at least ``DRIFT`` along least-squares lines over at least ``DRIFT_ROUNDS`` rounds.
    """
    if patients is None or patients.transfer is None:
        return None
    rounds = np.array(patients.transfer.rounds, dtype=float).reshape(-1, 3)
    rounds = rounds[np.isfinite(rounds).all(axis=1)]
    if len(rounds) < DRIFT_ROUNDS:
        return None
    span = rounds[-1, 0] - rounds[0, 0]
    inside, across = (span * np.polyfit(rounds[:, 0], rounds[:, n], 1)[0] for n in (1, 2))
    if inside < DRIFT or across > -DRIFT:
        return None
    return Finding(
        "The sites' adapters overfit: better at home, worse elsewhere.",
        f"From round {rounds[0, 0]:.0f} to {rounds[-1, 0]:.0f} in-client Dice goes from "
        f"{rounds[0, 1]:.3f} to {rounds[-1, 1]:.3f}, cross-client Dice from {rounds[0, 2]:.3f} to "
        f"{rounds[-1, 2]:.3f} (validation patients; fitted {signed(inside)} and {signed(across)}).",
        "Fewer local-epochs, a lower learning-rate, another rank, or fewer rounds.",
    )


def _gains_text(gains: dict[str, float]) -> str:
    return listed(f"{site} {signed(gain, 4)}" for site, gain in gains.items())
