"""Makes what the containers of docker-compose.yml need; keeps what is there already.

    ROOT/setup        ca.key, data to pretrain the base on; only for this container
    ROOT/superlink    ca.pem, server.pem, server.key
    ROOT/coordinator  ca.pem, SITE.pub
    ROOT/SITE         ca.pem, key, key.pub, site.toml, base.safetensors, mnms2/ with its patients

Each folder is a volume of its own. The container ``setup`` runs this.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import tomli_w
import typer

from cardiac.datasets import site_name
from cardiac.phantom import write_acdc, write_mnms2
from cardiac.pretraining import pretrain
from common.certificates import make_authority, make_site_key
from common.config import RunConfig
from common.console import console
from common.errors import UserError
from common.files import replace_file, write_text
from common.flower_private import parse_config_args
from common.progress import progress
from server_app.run_config import resolve_run

VENDORS = {"SIEMENS": 1.0, "Philips Medical Systems": 1.0, "GE MEDICAL SYSTEMS": 0.5}
"""Number of each site's patients, relative to the largest site's."""
CONTAINER = Path("/site")
"""Path at which a site's container sees its folder."""


def main(
    root: Annotated[Path, typer.Argument(help="Folder of the volumes.")],
    superlink: Annotated[str, typer.Option(help="host:port that the sites connect to.")],
    patients: Annotated[int, typer.Option(min=6, help="Patients of the largest site.")] = 16,
    run_config: Annotated[str, typer.Option(help="Keys for the base model, as for flwr run.")] = "",
) -> None:
    """Make certificates, keys, data and a base model for the containers of the demo."""
    typed = parse_config_args([run_config])
    config = resolve_run(typed, typed)
    setup = root / "setup"
    if not (setup / "server.pem").exists():  # make_authority writes it last
        make_authority(setup, [superlink.rpartition(":")[0], "127.0.0.1"], 365)
    for name in ("ca.pem", "server.pem", "server.key"):
        copy(setup / name, root / "superlink" / name)
    copy(setup / "ca.pem", root / "coordinator" / "ca.pem")
    base = setup / "base.safetensors"
    if not base.exists():
        make_base(base, patients, config)
    for vendor, part in VENDORS.items():
        name = site_name("VENDOR", vendor)
        site = root / name.lower()
        if not (site / "key").exists():
            make_site_key(site / "key")
        if not (site / "mnms2").exists():
            write_mnms2(site, patients={vendor: int(part * patients)})
        write_text(site / "site.toml", tomli_w.dumps(settings(name, superlink)))
        copy(base, site / base.name)
        copy(site / "key.pub", root / "coordinator" / f"{site.name}.pub")
        copy(setup / "ca.pem", site / "ca.pem")
    console.print(f"{root}: all is there")


def copy(source: Path, target: Path) -> None:
    """Copy a file with its mode, so that a private key stays private."""
    with replace_file(target) as temporary:
        shutil.copy(source, temporary)


def make_base(out: Path, patients: int, config: RunConfig) -> None:
    """Pretrain a base model on a phantom that no site has."""
    data = out.parent / "acdc"
    if not data.exists():
        write_acdc(out.parent, patients=patients)
    cached = replace(config.data, cache_dir=str(out.parent / "cache"))
    with progress(console) as report:
        pretrain(data, out, replace(config, data=cached), report)


def settings(name: str, superlink: str) -> dict[str, str | int]:
    """Return the keys of a site's file, as its container reads it."""
    return {
        "superlink": superlink,
        "root-certificates": str(CONTAINER / "ca.pem"),
        "private-key": str(CONTAINER / "key"),
        "health": "127.0.0.1:9095",
        "site": name,
        "data-dir": str(CONTAINER / "mnms2"),
        "base-model": str(CONTAINER / "base.safetensors"),
        "cache-dir": "/state",
        "approve": "any",
        "min-train-patients": 1,  # its few patients are phantoms, so no number need hide them
        "min-patients": 1,
    }


if __name__ == "__main__":
    try:
        typer.run(main)
    except UserError as error:
        sys.exit(f"Error: {error}")
