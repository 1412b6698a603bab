"""``rate-my-lora phantom``: synthetic hearts as files."""

from pathlib import Path
from typing import Annotated

import typer

from cardiac.phantom import VENDORS, write_phantom
from common.console import console
from common.progress import progress


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write; acdc/ and mnms2/ come into it.")],
    seed: Annotated[int, typer.Option(min=0, help="Seeds every patient.")] = 0,
    heterogeneity: Annotated[
        float, typer.Option(min=0.0, help="How far the vendors' looks lie apart; 0: all alike.")
    ] = 1.0,
    pathology_at: Annotated[
        str, typer.Option(help="Vendor whose patients, and no others, have a dilated RV.")
    ] = "",
    patients: Annotated[
        int | None, typer.Option(min=1, help="Of every vendor; otherwise 8 of GE and 16 of two.")
    ] = None,
) -> None:
    """Write synthetic hearts as NIfTI in the ACDC and the M&Ms-2 layout."""
    with progress(console) as report:
        write_phantom(
            out,
            seed=seed,
            patients=None if patients is None else dict.fromkeys(VENDORS, patients),
            heterogeneity=heterogeneity,
            pathology_at=pathology_at,
            progress=lambda done, total: report("making patients", done, total, 0.0),
        )
    console.print(f"{out / 'acdc'}: one scanner, to pretrain on")
    console.print(f"{out / 'mnms2'}: three vendors, to federate")
