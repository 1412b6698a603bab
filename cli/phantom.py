"""``rate-my-lora phantom``: writes synthetic hearts."""

from pathlib import Path
from typing import Annotated

import typer

from cardiac.phantom import VENDORS, write_phantom
from common.console import console
from common.progress import progress


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to write acdc/ and mnms2/ into.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of all patients.")] = 0,
    heterogeneity: Annotated[
        float, typer.Option(min=0.0, help="How much vendors differ in appearance; 0: not at all.")
    ] = 1.0,
    pathology_at: Annotated[
        str, typer.Option(help="The one vendor whose patients have a dilated RV.")
    ] = "",
    patients: Annotated[
        int | None,
        typer.Option(min=1, help="Patients of each vendor.", show_default="GE 8, others 16"),
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
