"""``rate-my-lora approve``: shows the runs that asked this site, and approves one of them."""

from pathlib import Path
from typing import Annotated

import typer

from client_app.approval import Approvals
from client_app.connection import read_site
from common.console import console

SITE_FILE = Path("/etc/rate-my-lora/site.toml")


def approve(
    run: Annotated[
        str, typer.Argument(help="Code of the run, as it is listed; without it all are listed.")
    ] = "",
    site_file: Annotated[Path, typer.Option(help="TOML file of the site.")] = SITE_FILE,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Withdraw the approval, also during the run.")
    ] = False,
) -> None:
    """List what runs ask of this site, or approve one: until then the site answers nothing of it.

    Run it as the user of the site's service, who owns the site's cache folder.
    """
    approvals = Approvals(read_site(site_file)[1])
    if run:
        (approvals.withdraw if withdraw else approvals.approve)(run)
    proposals = [known for known in approvals.all() if run in ("", known.code)]
    for proposal in proposals:
        console.print("\n".join(approvals.lines(proposal)))
    if not proposals:
        console.print("no run has asked this site yet")
