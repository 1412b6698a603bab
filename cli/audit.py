"""``rate-my-lora audit``: what came to a site and what left it, from its own log."""

import json
from pathlib import Path
from typing import Annotated

import typer

from client_app.audit import read_audit
from client_app.audit_summary import beside_adapters, summarise, tables, to_json
from common.console import console
from common.files import write_text


def audit(
    log: Annotated[Path, typer.Argument(help="Audit log of the site.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="JSON file for the sums.")] = None,
) -> None:
    """Sum up what came to this site and what left it; status 1 if the guard stopped a reply."""
    summary = summarise(read_audit(log))
    if json_out is not None:
        write_text(json_out, json.dumps(to_json(summary), indent=2) + "\n")
    console.print(f"{log}: {summary.first or 'no message'} … {summary.last}")
    for view in tables(summary):
        console.print(view)
    for kind, names in beside_adapters(summary).items():
        console.print(f"left beside adapters, {kind}: {', '.join(names)}")
    for line in summary.refusals:
        console.print(f"{line['time']} round {line['round']} {line['kind']}: {line['verdict']}")
    if summary.refusals:
        raise typer.Exit(1)
