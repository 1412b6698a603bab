"""``MODEL_CARD.md``: what the model is, what it was measured at, and how to use its files."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from cardiac.preprocessing import CLIP_PERCENTILES
from common.config import RunConfig
from common.model import file_sha256
from common.text import markdown_cell, markdown_table
from results.export.bundle_configs import INTENDED_USE, PAPER
from results.export.card_tables import refusals, result_rows, round_rows, site_rows, traffic_lines
from results.export.exported_model import ExportedModel
from results.export.onnx_file import OPSET

SHOWN = ("keys", "result", "length")
"""What the keys affect that a card shows. The others say where a machine keeps its files, which
is nobody's business, or how it computes."""
PACKAGES = ("torch", "monai", "flwr", "nibabel", "numpy")


def model_card(
    source: ExportedModel, formats: Sequence[str], files: Iterable[Path], root: Path
) -> str:
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
    environment.filters["cell"] = markdown_cell
    environment.globals["table"] = markdown_table
    return environment


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if value != "" else "(empty)"
