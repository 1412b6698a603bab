"""Signatures of trouble in the rounds: validation, penalties, refusals, traffic."""

from collections import defaultdict
from itertools import pairwise
from statistics import median

from results.report.finding import LEAST_CHANGE, Finding, listed, rounds_text
from results.report.tables import signed
from results.run_files import Run

MIN_ROUNDS = 6
"""With fewer rounds nothing is said of how validation moves or how often the penalty fires."""
SWING_STEP = 0.01
"""Least median change of validation Dice from round to round that is called a swing."""
SWING_TURNS = 0.5
"""Least share of steps that turn back on the one before; pure noise has two thirds."""
SWING_PATH = 3.0
"""Least length of the way in multiples of the net change: a steep rise is no swing."""
NEARLY_ALWAYS = 0.8
"""Share of rounds with a penalty from which on the rating no longer tells sites apart."""
REPEATEDLY = 2
"""Rounds in which a site is left out before it is worth a finding."""


def swinging_validation(run: Run) -> Finding | None:
    """Fire where a site's validation goes up and down by much and arrives at little.

    Steps are the changes from round 1 on; the jump from the base to round 1 is not one. A site
    swings when their median size is at least ``SWING_STEP``, at least ``SWING_TURNS`` of them
    turn back on the one before, and their sum is at least ``SWING_PATH`` times the net change.
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


def idle_last_rounds(run: Run) -> Finding | None:
    """Fire where the last third of the rounds has no better mean validation than those before.

    Better is by more than ``LEAST_CHANGE``; the mean is over the sites.
    """
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


def penalty_always_or_never(run: Run) -> Finding | None:
    """Fire where λ > 0 and the penalty struck in nearly every round, or in none."""
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
        "In every round someone gained while someone lost. Look at the validation curves: where "
        "the changes are as small as noise, more validation patients help; where they are large, "
        "the sites pull apart and a higher lambda-0 or separate groups of sites may help.",
    )


def left_out_sites(run: Run) -> Finding | None:
    """Fire where a site was refused or silent in ``REPEATEDLY`` rounds, or never took part."""
    rounds: dict[str, set[int]] = defaultdict(set)
    reasons: dict[str, str] = {}
    for line in run.history:
        for refusal in line.get("refused", []):
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
        "round-timeout-s; otherwise mend at the site what the reason names.",
    )


def foreign_traffic(run: Run) -> Finding | None:
    """Fire where a payload is not that of adapters of the site's rank and nothing else.

    An adapter of rank r has 4 · r · Σ (c_out + c_in·k·k) bytes. A round sends a site one or two
    (to train, to validate) and gets one back, or nothing.
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
        "Either a site sends something else than its adapter (full weights, another rank, another "
        "network), or site and server run different versions. Compare versions and ranks.",
    )
