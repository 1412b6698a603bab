"""What a run was and how it ended, in sentences and tables, and how to run it again."""

import shlex
from collections.abc import Sequence
from json import dumps

from common.config import RunConfig
from common.options import Value
from common.text import count, duration, signed, size
from results.report.page_tables import Palette, Table, row
from results.report.patients import Patients
from results.report.signatures import LEAST_CHANGE, listed
from results.run_reader import RunFiles, mean
from strategies.methods import METHODS


def state(run: RunFiles) -> str:
    """Return how far the run is, in words."""
    done, planned = len(run.rounds), run.config.federation.rounds
    if run.summary is not None:
        return f"finished, {count(done, 'round')}"
    return f"not finished: {done} of {planned} rounds (still running, or stopped)"


def outcome(run: RunFiles, patients: Patients | None) -> list[str]:
    """Return a few sentences on the result."""
    gains = run.gains()
    if not gains:
        return _outcome_so_far(run)
    up = [site for site, gain in gains.items() if gain > LEAST_CHANGE]
    down = [site for site, gain in gains.items() if gain < -LEAST_CHANGE]
    sentences = [
        f"Mean test Dice changed by {signed(mean(gains.values()))} over the base model, averaged "
        f"over {count(len(gains), 'site')}: {_who(up, 'gained')}, {_who(down, 'lost')}."
    ]
    volumes = sum(run.cases(site) or 0 for site in gains)
    if patients:
        pairs = [pair for site in run.sites for pair in patients.pairs(site, "dice", "mean")]
        better = sum(after > before for _, before, after in pairs)
        sentences.append(
            f"The scores are of {count(len(pairs), 'test patient')} ({count(volumes, 'volume')}); "
            f"{better} of them did better than under the base model."
        )
    else:
        sentences.append(f"The scores are of {count(volumes, 'test volume')}.")
    moved = run.traffic
    if moved["full_weights"]:
        share = (moved["up"] + moved["down"]) / moved["full_weights"]
        sentences.append(
            f"{size(moved['up'] + moved['down'])} of adapters moved, {share:.1%} of what "
            "averaging full weights would have moved."
        )
    return sentences


def _outcome_so_far(run: RunFiles) -> list[str]:
    means = run.mean_series("validation")
    if len(means) < 2 or means[0][0] != 0:
        return ["There is no result yet."]
    (_, base), (last, now) = means[0], means[-1]
    return [
        f"There are no test scores yet. Up to round {last} the mean validation Dice of the sites "
        f"went from {base:.3f} (base model) to {now:.3f}."
    ]


def _who(sites: Sequence[str], did: str) -> str:
    return f"{len(sites)} {did}" + (f" ({listed(sites, 5)})" if sites else "")


def facts(run: RunFiles) -> list[tuple[str, str]]:
    """Return the facts of the run, as (what, value)."""
    c, m = run.config, run.config.method
    method = "federated averaging of adapters (λ = 0)" if m.lambda_0 == 0 else (
        f"Rate-My-LoRA, λ₀ = {m.lambda_0:g} × {m.decay:g} a round"
    )  # fmt: skip
    return [
        ("Method", f"{method}; merge {m.merge}, share by {m.share}"),
        ("Profile", c.profile or "none"),
        ("Network", f"U-Net, {c.model.features} channels; rank {c.model.rank}, {c.model.ranks}"),
        ("Training", f"{count(c.train.local_epochs, 'local epoch')} a round, batches of "
         f"{c.train.batch_size}, learning rate {c.train.learning_rate:g}"),
        ("Data", f"{_data(run)}, {c.data.spacing_mm:g} mm"),
        ("Base model", f"SHA-256 {c.base_sha256}" if c.base_sha256 else "SHA-256 not recorded"),
        ("Versions", versions(run)),
        ("Time", _time(run)),
        ("Folder", str(run.path)),
    ]  # fmt: skip


def _data(run: RunFiles) -> str:
    if run.deployed:
        return "each site's own folder, split by the site's own settings, which are not recorded"
    data = run.config.data
    folder = data.data_dir or "phantom, or the own folder of each site"
    return f"{folder}, split by {data.split_by}, split seed {data.split_seed}"


def versions(run: RunFiles) -> str:
    """Return the versions that the summary names."""
    named = (run.summary or {}).get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in named.items()) or "not recorded"


def _time(run: RunFiles) -> str:
    by_phase = run.seconds()
    whole = (run.summary or {}).get("seconds")
    phases = ", ".join(f"{phase} {duration(s)}" for phase, s in by_phase.items())
    total = sum(by_phase.values()) if whole is None else whole
    return f"{duration(total)} ({phases})" if phases else duration(total)


def sites_table(run: RunFiles, palette: Palette, patients: Patients | None) -> Table:
    """Return a table of the sites that took part."""
    rows = []
    for site in run.sites:
        trainings, tested = run.trainings(site), run.cases(site)
        last = trainings[-1] if trainings else {}
        split = patients.splits.get(site) if patients else None
        rows.append(
            row(
                palette.cell(site),
                " / ".join(str(n) for n in split.values()) if split else "–",
                "–" if tested is None else str(tested),
                str(last.get("examples", "–")),
                str(last.get("rank", "–")),
                f"{len(trainings)} of {len(run.rounds)}",
                str(len(run.penalised(site))),
                f"{last['epsilon']:.2f} (δ {last.get('delta', 0):g})" if "epsilon" in last else "–",
            )
        )
    head = ("site", "patients train / val / test", "test volumes", "training slices", "rank",
            "rounds trained", "rounds penalised", "ε spent")  # fmt: skip
    return Table("Sites", head, rows)


def config_table(run: RunFiles) -> Table:
    """Return a table of all configuration keys."""
    rows = [
        row(key, dumps(value, ensure_ascii=False)) for key, value in run.config.to_flat().items()
    ]
    return Table("The whole configuration (config.toml)", ("key", "value"), rows, words=True,
                 folded=True)  # fmt: skip


def commands(run: RunFiles) -> list[tuple[str, str]]:
    """Return (where, command) for running it again, into another folder.

    A command names the preset but not the profile, whose keys it gives one by one.
    """
    preset = METHODS.get(run.config.preset)
    unless_typed = {**RunConfig().to_flat(), **(preset.keys if preset else {})}
    again: dict[str, Value] = {"profile": "", "resume": False, "run-dir": "runs/again"}
    flat = {**run.config.to_flat(), **again}
    typed = {key: value for key, value in flat.items() if value != unless_typed[key]}
    # JSON writes these values as TOML does
    words = (f"{key}={dumps(value, ensure_ascii=False)}" for key, value in typed.items())
    keys = shlex.quote(" ".join(words))
    nodes = max(1, len(run.sites))
    return [
        ("On one machine, simulated",
         f"flower-simulation --app . --num-supernodes {nodes} --run-config {keys}"),
        ("With a SuperLink and a SuperNode at every site",
         f"flwr run . FEDERATION --stream --run-config {keys}"),
    ]  # fmt: skip
