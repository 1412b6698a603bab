"""``rate-my-lora site-key``: makes the key by which a SuperLink knows a site."""

from pathlib import Path
from typing import Annotated

import typer

from common.certificates import make_site_key
from common.console import console


def site_key(
    out: Annotated[Path, typer.Argument(help="Private key to write; OUT.pub is the public half.")],
) -> None:
    """Make the key by which a SuperLink knows this site; only OUT.pub may leave the site."""
    fingerprint = make_site_key(out)
    console.print(f"{out}.pub: send it to the coordinator, {fingerprint}")
