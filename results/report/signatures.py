"""Signatures of trouble: numbers in a run's files that point to a known fault.

A signature is a function that returns a :class:`Finding` where it fires, otherwise None.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

from common.text import signed
from results.report.patients import Patients
from results.run_reader import RunFiles, mean

LEAST_CHANGE = 0.001
"""Differences in mean Dice up to this count as none: reruns on other machines differ as much."""
WORSE_THAN_ALONE = 0.02
"""Dice by which a site's own adapter must beat the merge. Having trained last on the site's own
data gives an adapter a little by itself."""
DRIFT = 0.005
"""Least rise of in-client Dice, and least fall of cross-client Dice, of lines fitted over a run."""
DRIFT_ROUNDS = 3
"""Fewest rounds to which such a line is fitted."""
MIN_ROUNDS = 6
"""Fewest rounds that show how validation moves and how often sites are penalised."""
SWING_STEP = 0.01
"""Least median change of validation Dice from round to round that counts as swinging."""
SWING_TURNS = 0.5
"""Least fraction of steps that turn back on the one before; for pure noise it is two thirds."""
SWING_PATH = 3.0
"""Least sum of all steps in multiples of the net change; a steep rise stays below it."""
NEARLY_ALWAYS = 0.8
"""Fraction of rounds with a penalised site above which the rating does not tell sites apart."""
REPEATEDLY = 2
"""Fewest rounds without a site's answer that make a finding."""


@dataclass(frozen=True)
class Finding:
    """A known signature of trouble that a run shows."""

    title: str
    """One sentence that names the trouble."""
    evidence: str
    """The numbers that show it."""
    advice: str
    """What to try."""


def find(run: RunFiles, patients: Patients | None = None) -> list[Finding]:
    """Return the findings that a run shows, those about its outcome first."""
    found = (
        no_site_gained(run),
        sites_that_lost(run),
        merge_worse_than_alone(run, patients),
        overfitting_adapters(patients),
        swinging_validation(run),
        idle_last_rounds(run),
        penalty_always_or_never(run),
        left_out_sites(run),
        foreign_traffic(run),
    )
    return [finding for finding in found if finding is not None]


def unchecked(run: RunFiles, patients: Patients | None = None) -> list[str]:
    """Return the kinds of trouble that cannot be looked for because their numbers are missing."""
    transfer = patients.transfer if patients else None
    own = transfer is not None or any(run.series(site, "local") for site in run.sites)
    known = {
        "sites that gained or lost (no test scores)": bool(run.gains()),
        "a merge worse than sites' own adapters (their scores are not recorded)": own,
        "adapters that overfit (no adapters of single sites from several rounds, or no images)": (
            transfer is not None and len(transfer.rounds) >= DRIFT_ROUNDS
        ),
        f"swings, idle rounds and odd penalties (fewer than {MIN_ROUNDS} rounds)": (
            len(run.rounds) >= MIN_ROUNDS
        ),
    }
    return [what for what, can in known.items() if not can]


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
    if not lost or max(gains.values()) <= LEAST_CHANGE:  # then no_site_gained fires
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

    On validation patients this is the mean over the last third of the rounds in which sites
    report it (``local``); on test patients it needs the sites' own adapters.
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

    Least-squares lines over at least ``DRIFT_ROUNDS`` rounds must both change by ``DRIFT``.
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


def swinging_validation(run: RunFiles) -> Finding | None:
    """Fire where a site's validation Dice goes far up and down but changes little on the whole.

    Steps are the changes between rounds from round 1 on. A site swings when their median size is
    at least ``SWING_STEP``, at least ``SWING_TURNS`` of them turn back on the one before, and the
    sum of their sizes is at least ``SWING_PATH`` times the net change.
    """
    evidence = []
    for site in run.sites:
        points = [(t, value) for t, value in run.series(site, "validation") if t > 0]
        if len(points) < MIN_ROUNDS:
            continue
        steps = [after - before for (_, before), (_, after) in pairwise(points)]
        turns = sum(one * two < 0 for one, two in pairwise(steps))
        size, path = median(map(abs, steps)), sum(map(abs, steps))
        if (
            size >= SWING_STEP
            and turns >= SWING_TURNS * (len(steps) - 1)
            and path >= SWING_PATH * abs(sum(steps))
        ):
            evidence.append(
                f"{site}: median step {size:.3f}, {turns} of {len(steps) - 1} steps turn back, "
                f"net change {signed(sum(steps))} from round {points[0][0]} to {points[-1][0]}"
            )
    if not evidence:
        return None
    method, train = run.config.method, run.config.train
    return Finding(
        "Validation Dice swings from round to round.",
        "; ".join(evidence) + ".",
        f"Lower learning-rate (now {train.learning_rate:g}) or lambda-0 (now {method.lambda_0:g}). "
        "With only a few validation patients the swing may be noise: then rate over more patients "
        "before trusting the penalties.",
    )


def idle_last_rounds(run: RunFiles) -> Finding | None:
    """Fire where mean validation Dice gains at most ``LEAST_CHANGE`` in the last third of a run."""
    points = run.mean_series("validation")
    if len(points) <= MIN_ROUNDS or run.rounds[-1]["round"] < MIN_ROUNDS:
        return None
    begin = points[-1][0] - len(run.rounds) // 3
    best = max((value, -t) for t, value in points if t <= begin)
    late = max(value for t, value in points if t > begin)
    if late > best[0] + LEAST_CHANGE:
        return None
    return Finding(
        "Validation did not improve in the last third of the rounds.",
        f"Mean over sites: {best[0]:.4f} in round {-best[1]}, at best {late:.4f} after round "
        f"{begin}.",
        f"About {max(1, -best[1])} rounds would do; or lower learning-rate for the later ones.",
    )


def penalty_always_or_never(run: RunFiles) -> Finding | None:
    """Fire where λ > 0 and a site was penalised in nearly every round, or in none."""
    lambda_0 = run.config.method.lambda_0
    if lambda_0 == 0 or len(run.rounds) < MIN_ROUNDS:
        return None
    struck = sorted({t for site in run.sites for t in run.penalised(site)})
    told = f"{len(struck)} of {len(run.rounds)} rounds had a penalised site."
    if not struck:
        return Finding(
            "No site was ever penalised.",
            told,
            "In no round did one site rise while another fell, so this run is plain federated "
            f"averaging of adapters, whatever lambda-0 ({lambda_0:g}) says.",
        )
    if len(struck) < NEARLY_ALWAYS * len(run.rounds):
        return None
    return Finding(
        "Sites were penalised in nearly every round.",
        told,
        "In nearly every round a site gained while another lost. Look at the validation curves: "
        "where the changes are as small as noise, more validation patients help; where they are "
        "large, the sites pull apart, and a higher lambda-0 or separate groups of sites may help.",
    )


def left_out_sites(run: RunFiles) -> Finding | None:
    """Fire where a site was refused or silent in ``REPEATEDLY`` rounds, or never took part."""
    rounds: dict[str, set[int]] = defaultdict(set)
    reasons: dict[str, str] = {}
    for line in run.history:
        for refusal in line["refused"]:
            rounds[refusal["site"]].add(line["round"])
            reasons[refusal["site"]] = f"{refusal['phase']}: {refusal['reason']}"[:300]
    trained = {site for site in run.sites if run.series(site, "penalty")}
    told = []
    for site in sorted(rounds):
        never = bool(run.rounds) and site not in trained
        if never or len(rounds[site]) >= REPEATEDLY:
            what = "never trained, left out in" if never else "left out in"
            told.append(f"{site} {what} {rounds_text(rounds[site])} ({reasons[site]})")
    if not told:
        return None
    return Finding(
        "A site was refused or silent repeatedly.",
        "; ".join(told) + ".",
        "Where the reason is 'no answer', look at that site's log and network, or raise "
        "round-timeout-s; otherwise mend at the site what the reason says.",
    )


def foreign_traffic(run: RunFiles) -> Finding | None:
    """Fire where a payload is not a whole number of adapters of the site's rank.

    An adapter of rank r has 4 · r · Σ (c_out + c_in·k·k) bytes. In a round a site gets up to two
    (to train and to validate) and sends one or none.
    """
    odd: dict[str, list[str]] = defaultdict(list)
    for site in run.sites:
        for t, entry in run.entries(site):
            expected = entry.get("rank", 0) * run.bytes_per_rank
            up, down = entry.get("bytes_up", 0), entry.get("bytes_down", 0)
            if up not in (0, expected) or down not in (0, expected, 2 * expected):
                odd[site].append(
                    f"round {t}: {up:,} bytes up and {down:,} down, expected {expected:,} a message"
                )
    if not odd:
        return None
    return Finding(
        "The traffic does not fit adapters alone.",
        "; ".join(f"{site}, {listed(rounds, 2)}" for site, rounds in odd.items()) + ".",
        "Either a site sends something other than its adapter (full weights, another rank, another "
        "network), or site and server run different versions. Compare versions and ranks.",
    )


def _gains_text(gains: dict[str, float]) -> str:
    return listed(f"{site} {signed(gain, 4)}" for site, gain in gains.items())


def listed(parts: Iterable[object], most: int = 12) -> str:
    """Return parts as ``a, b and c``; of more than ``most`` parts the rest is counted."""
    texts = [str(part) for part in parts]
    if len(texts) > most:
        texts = [*texts[:most], f"{len(texts) - most} more"]
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def rounds_text(rounds: Iterable[int]) -> str:
    """Return ``round 3``, ``rounds 3, 4 and 7``."""
    numbers = sorted(set(rounds))
    return f"round{'s' if len(numbers) != 1 else ''} {listed(numbers)}"
