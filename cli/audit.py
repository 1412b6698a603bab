"""``rate-my-lora audit``: what came to a site and what left it, from its own log."""

import json
from pathlib import Path
from typing import Annotated

import typer

from client_app.audit import read_audit
from client_app.audit_history import differences
from client_app.audit_summary import beside_adapters, summarise, tables, to_json
from common.console import console
from common.files import write_text


def audit(
    log: Annotated[Path, typer.Argument(help="Audit log of the site.")],
    json_out: Annotated[Path | None, typer.Option("--json", help="JSON file for the sums.")] = None,
    history: Annotated[
        Path | None, typer.Option(help="A run's history.jsonl to hold against the log.")
    ] = None,
    site: Annotated[
        str, typer.Option(help="The site's name in that history, if not the log's.")
    ] = "",
) -> None:
    """Verify a site's log and sum up what came and what left.

    The status is 1 if the guard refused a message or the history differs from the log, and 2 if
    lines of the log were removed, changed or reordered.
    """
    summary = summarise(read_audit(log))
    if json_out is not None:
        write_text(json_out, json.dumps(to_json(summary), indent=2) + "\n")
    console.print(f"{log}: {summary.first or 'no message'} … {summary.last}; every line is there")
    for view in tables(summary):
        console.print(view)
    for kind, names in beside_adapters(summary).items():
        console.print(f"left beside adapters, {kind}: {', '.join(names)}")
    for line in summary.mended:
        console.print(f"{line['time']} mended after a crash: {line.get('note')}")
    for line in summary.refusals:
        console.print(f"{line['time']} round {line['round']} {line['kind']}: {line['verdict']}")
    differing = differences(read_audit(log), history, site) if history is not None else []
    if history is not None and not differing:
        console.print(f"{history}: agrees with the log")
    for sentence in differing:
        console.print(f"{history}: {sentence}")
    if summary.refusals or differing:
        raise typer.Exit(1)
