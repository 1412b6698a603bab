"""``MODEL_CARD.md``: what the model is, what it was measured at, and how to use its files."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from cardiac.preprocessing import CLIP_PERCENTILES
from common.config import RunConfig
from common.model import file_sha256
from results.export.bundle_configs import INTENDED_USE, PAPER
from results.export.onnx_file import OPSET
from results.export.run_facts import RunFacts, refusals, result_rows, round_rows, traffic_lines
from results.export.source import Source, parameters

SHOWN = ("keys", "result", "length")
"""What the keys affect that a card shows. The others say where a machine keeps its files, which
is nobody's business, or how it computes."""
PACKAGES = ("torch", "monai", "flwr", "nibabel", "numpy")


def model_card(source: Source, formats: Sequence[str], files: Iterable[Path], root: Path) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    source
        What is exported.
    formats
        The formats that were written.
    files
        All files that were written, below ``root``.
    root
        The folder of the export.
    """
    facts, flat = source.facts, source.config.to_flat()
    template = _environment().get_template("model_card.md")
    return template.render(
        date=datetime.now(UTC).date().isoformat(),
        facts=facts,
        features=source.config.model.channels(),
        parameters=f"{parameters(source.network):,}",
        adapter=source.adapter and source.adapter.adapter,
        notes=source.notes,
        config=flat,
        percentiles=" and ".join(map(str, CLIP_PERCENTILES)),
        paper=PAPER,
        intended_use=INTENDED_USE,
        round_count=sum(line["round"] > 0 for line in facts.history) if facts else 0,
        site_names=[site.name for site in facts.sites] if facts else [],
        site_rows=_site_rows(facts) if facts else [],
        result_rows=result_rows(facts) if facts else [],
        round_rows=round_rows(facts) if facts else [],
        refusals=refusals(facts) if facts else [],
        traffic=traffic_lines(facts) if facts else [],
        exported_with=", ".join(f"{name} {version(name)}" for name in PACKAGES),
        config_rows=[[key, _text(flat[key])] for key in RunConfig.keys_that_affect(*SHOWN)],
        formats=formats,
        opset=OPSET,
        file_rows=[
            [path.relative_to(root).as_posix(), f"{path.stat().st_size:,}", file_sha256(path)]
            for path in files
        ],
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=select_autoescape(),  # which leaves Markdown as it is
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    environment.globals["table"] = _table
    return environment


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Keep a name of somebody's from breaking the table or the page."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "(empty)"


def _site_rows(facts: RunFacts) -> list[list[str]]:
    def shown(value: int | None) -> str:
        return "–" if value is None else str(value)

    return [
        [
            site.name,
            shown(site.rank),
            shown(site.examples),
            str(site.rounds),
            shown(site.cases),
        ]
        for site in facts.sites
    ]
