"""Tables of what happened over the rounds: validation, refusals and traffic."""

from common.text import duration, number, size
from results.report.page_tables import Cell, Palette, Table, row
from results.run_reader import RunFiles
from server_app.curves import label


def rounds_table(run: RunFiles) -> Table:
    """Return the validation Dice of every round, with the penalty of each penalised site."""
    rows = []
    for line in run.history:
        entries = [line["sites"].get(site, {}) for site in run.sites]
        cells: list[str | Cell] = [str(line["round"])]
        cells.append(f"{line['lambda']:.3f}" if line["round"] else "base")
        for entry in entries:
            penalty = entry.get("penalty", 1)
            mark = f" ▽ {penalty:.3f}" if penalty < 1 else ""
            cells.append(Cell(number(entry.get("validation"), 4) + mark, strong=penalty < 1))
        cells.append(duration(sum(line["seconds"].values())))
        rows.append(row(*cells))
    return Table(
        "Round by round: validation Dice",
        ("round", "λ", *map(label, run.sites), "time"),
        rows,
        note="▽ w: the site gained while another lost; its penalty in the re-merge is w.",
        folded=True,
    )


def refusals_table(run: RunFiles) -> Table:
    """Return every answer that was left out of a round, and why."""
    rows = [
        row(str(line["round"]), refusal["site"], refusal["phase"], refusal["reason"][:500])
        for line in run.history
        for refusal in line["refused"]
    ]
    return Table("Refused or silent", ("round", "site", "phase", "reason"), rows, words=True)


def traffic_table(run: RunFiles, palette: Palette) -> Table:
    """Return each site's payload in all and of one upload, beside what its rank predicts."""
    rows = []
    for site in run.sites:
        entries = [entry for t, entry in run.entries(site) if t > 0]
        up = sum(entry.get("bytes_up", 0) for entry in entries)
        down = sum(entry.get("bytes_down", 0) for entry in entries)
        rank = next((entry["rank"] for entry in reversed(entries) if "rank" in entry), 0)
        sent = sorted({entry["bytes_up"] for entry in entries if entry.get("bytes_up")})
        rows.append(
            row(
                palette.cell(site),
                size(up),
                size(down),
                " to ".join(f"{n:,}" for n in dict.fromkeys((sent[0], sent[-1]))) if sent else "–",
                f"{rank * run.bytes_per_rank:,}" if rank else "–",
            )
        )
    total = run.traffic
    rows.append([Cell(text, strong=True) for text in
                 ("all sites", size(total["up"]), size(total["down"]), "", "")])  # fmt: skip
    head = ("site", "up", "down", "bytes per upload", "bytes predicted by rank")
    return Table("Payload", head, rows)


def traffic_sentence(run: RunFiles) -> str:
    """Return sentences that compare the traffic with that of averaging full weights."""
    moved = run.traffic
    if not moved["full_weights"]:
        return "Nothing was trained yet."
    total = moved["up"] + moved["down"]
    return (
        f"{size(total)} in all. Averaging full weights over the same trainings, one model down and "
        f"one up each, would have moved {size(moved['full_weights'])}; this is "
        f"{1 - total / moved['full_weights']:.1%} less. These are the bytes of the arrays, without "
        "what the network adds."
    )
