"""``rate-my-lora authority``: the certificates that TLS needs."""

from pathlib import Path
from typing import Annotated

import typer

from common.certificates import AUTHORITY_DAYS, make_authority
from common.console import console


def authority(
    out: Annotated[Path, typer.Argument(help="Folder for ca.pem, ca.key, server.pem, server.key.")],
    host: Annotated[
        list[str],
        typer.Option("--host", help="Name or address that sites use; may be repeated."),
    ],
    days: Annotated[
        int, typer.Option(min=1, max=AUTHORITY_DAYS, help="Validity of the server's certificate.")
    ] = 365,
) -> None:
    """Make a certificate authority and the SuperLink's certificate, or only renew the latter."""
    until = make_authority(out, host, days)
    console.print(f"{out / 'ca.pem'}: for every site (root-certificates)")
    console.print(f"{out / 'server.pem'}, server.key: for the SuperLink, valid until {until}")
    console.print(f"{out / 'ca.key'}: keep it offline; it signs the next server certificate")
