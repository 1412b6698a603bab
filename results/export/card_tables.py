"""What a model card says of a run, from the run's files; nothing is made up that is not there."""

from common.text import NONE, number
from results.run_reader import COLUMNS, RunFiles


def site_rows(run: RunFiles) -> list[list[str]]:
    """Return per site: rank, training slices a round, rounds trained, test cases."""
    rows = []
    for site in run.sites:
        trainings = run.trainings(site)
        last = trainings[-1] if trainings else {}
        facts = (last.get("rank"), last.get("examples"), len(trainings), run.cases(site))
        rows.append([site, *(NONE if fact is None else str(fact) for fact in facts)])
    return rows


def result_rows(run: RunFiles) -> list[list[str]]:
    """Return per site and structure: n, Dice of base and result, HD95 of base and result."""
    return [
        [
            site,
            str(run.cases(site)),
            structure,
            *(
                number(run.score(site, model, metric, structure), digits)
                for metric, digits in (("dice", 3), ("hd95_mm", 1))
                for model in ("base", "test")
            ),
        ]
        for site in run.sites
        if run.cases(site) is not None
        for structure in COLUMNS
    ]


def round_rows(run: RunFiles) -> list[list[str]]:
    """Return per round: λ, and P and penalty of every site."""
    rows = []
    for line in run.history:
        cells = [str(line["round"]), number(line["lambda"], 4) if line["round"] else NONE]
        for entry in (line["sites"].get(site, {}) for site in run.sites):
            penalty = f" ({number(entry['penalty'])})" if "penalty" in entry else ""
            cells.append(number(entry.get("validation")) + penalty)
        rows.append(cells)
    return rows


def refusals(run: RunFiles) -> list[str]:
    """Return what was left out, a line each."""
    left_out = [(f"round {line['round']}", out) for line in run.history for out in line["refused"]]
    left_out += [("at the end", out) for out in (run.summary or {}).get("refused", ())]
    return [f"{when}, {out['phase']}, {out['site']}: {out['reason']}" for when, out in left_out]


def traffic_lines(run: RunFiles) -> list[str]:
    """Return lines on traffic and time, as the run itself summed them up."""
    moved, seconds = ((run.summary or {}).get(key) for key in ("bytes", "seconds"))
    traffic, time = "Traffic is not recorded.", "The run's duration is not recorded."
    if moved:
        traffic = f"Payload of all rounds: {moved['up']:,} bytes up, {moved['down']:,} bytes down"
        if moved["full_weights"]:
            traffic += (
                f"; averaging full weights would send {moved['full_weights']:,} bytes, of which "
                f"this is {number(100 * moved['ratio'], 1)} %"
            )
        traffic += "."
    if seconds is not None:
        time = f"The rounds took {number(seconds, 0)} s."
    return [traffic, time]
