"""``MODEL_CARD.md``: what the model is, how it scored, and how to use its files.

The card says only what the files of the model and of its run say.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from cardiac.preprocessing import CLIP_PERCENTILES
from common.config import RunConfig
from common.model import file_sha256
from common.text import NONE, markdown_cell, markdown_table, number
from results.export.bundle_configs import INTENDED_USE, PAPER
from results.export.exported_model import ExportedModel
from results.export.onnx_file import OPSET
from results.run_reader import COLUMNS, RunFiles

SHOWN = ("keys", "result", "length")
"""What the keys on a card affect. Other keys say where a machine keeps its files, which is private,
or how it computes."""
SITES_OWN = ("affine-axes", "split-by", "split-seed")
"""Keys that deployed sites replace by their own."""
PACKAGES = ("torch", "monai", "flwr", "nibabel", "numpy")


def model_card(
    source: ExportedModel, formats: Sequence[str], files: Iterable[Path], root: Path
) -> str:
    """Return the card as Markdown; ``files`` were written in these ``formats`` below ``root``."""
    run, flat = source.run, source.config.to_flat()
    summary = (run and run.summary) or {}
    parameters = sum(value.numel() for value in source.network.state_dict().values())
    template = _environment().get_template("model_card.md")
    return template.render(
        date=datetime.now(UTC).date().isoformat(),
        run=run,
        method=str(summary.get("method", "")),
        versions={name: str(version) for name, version in summary.get("versions", {}).items()},
        features=source.config.model.channels(),
        parameters=f"{parameters:,}",
        adapter=source.adapter and source.adapter.adapter,
        notes=source.notes,
        config=flat,
        percentiles=" and ".join(map(str, CLIP_PERCENTILES)),
        paper=PAPER,
        intended_use=INTENDED_USE,
        site_rows=site_rows(run) if run else [],
        result_rows=result_rows(run) if run else [],
        round_rows=round_rows(run) if run else [],
        refusals=refusals(run) if run else [],
        traffic=traffic_lines(run) if run else [],
        exported_with=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        config_rows=[
            [key, _text(flat[key])]
            for key in RunConfig.keys_that_affect(*SHOWN)
            if not (run and run.deployed and key in SITES_OWN)
        ],
        formats=formats,
        opset=OPSET,
        file_rows=[
            [path.relative_to(root).as_posix(), f"{path.stat().st_size:,}", file_sha256(path)]
            for path in files
        ],
    )


def site_rows(run: RunFiles) -> list[list[str]]:
    """Return for each site: name, rank, training slices a round, rounds trained, test cases."""
    rows = []
    for site in run.sites:
        trainings = run.trainings(site)
        last = trainings[-1] if trainings else {}
        facts = (last.get("rank"), last.get("examples"), len(trainings), run.cases(site))
        rows.append([site, *(NONE if fact is None else str(fact) for fact in facts)])
    return rows


def result_rows(run: RunFiles) -> list[list[str]]:
    """Return for each site and structure: n, Dice of base and result, HD95 (mm) of both."""
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
    """Return for each round: its number, λ, and every site's validation Dice and penalty."""
    rows = []
    for line in run.history:
        cells = [str(line["round"]), number(line["lambda"], 4) if line["round"] else NONE]
        for entry in (line["sites"].get(site, {}) for site in run.sites):
            penalty = f" ({number(entry['penalty'])})" if "penalty" in entry else ""
            cells.append(number(entry.get("validation")) + penalty)
        rows.append(cells)
    return rows


def refusals(run: RunFiles) -> list[str]:
    """Return one line for every answer that was left out."""
    left_out = [(f"round {line['round']}", out) for line in run.history for out in line["refused"]]
    left_out += [("at the end", out) for out in (run.summary or {}).get("refused", ())]
    return [f"{when}, {out['phase']}, {out['site']}: {out['reason']}" for when, out in left_out]


def traffic_lines(run: RunFiles) -> list[str]:
    """Return sentences on traffic and time, from the run's own summary."""
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


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=select_autoescape(),  # which leaves Markdown as it is
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = markdown_cell
    environment.globals["table"] = markdown_table
    return environment


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "(empty)"
