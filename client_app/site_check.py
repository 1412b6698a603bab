"""``rate-my-lora join --check``: all that a site needs, tried one by one, without connecting."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from client_app.site import Site
from client_app.site_settings import SiteSettings
from common.config import RunConfig
from common.console import console
from common.errors import UserError
from common.flower_private import is_port_in_use
from common.model import file_sha256, load_base
from common.writable import check_folder, check_log

LEVELS = (
    "conv_0.conv_0.conv.weight",
    *(f"down_{level}.convs.conv_0.conv.weight" for level in range(1, 5)),
    "upcat_1.convs.conv_0.conv.weight",
)
"""Tensors whose first axis is a channel count, in the order of ``features``."""
NEEDED = frozenset(("base-model", "cache-dir"))
"""Without these the data cannot be tried."""


def check_site(settings: SiteSettings, health: str, file: Path) -> None:
    """Print a line for everything a site needs, whether it is ok or has failed.

    Parameters
    ----------
    settings
        Of the site.
    health
        Address of the health service; empty for none.
    file
        The site's file, for the error.

    Raises
    ------
    UserError
        Something has failed.
    """
    attempts: dict[str, Callable[[], str]] = {
        "base-model": lambda: try_base(Path(settings.base_model).expanduser()),
        "cache-dir": lambda: try_cache(settings),
        "audit-log": lambda: try_log(settings),
        "serves": lambda: ", ".join(sorted(settings.served())),
        "health": lambda: try_health(health),
        "data-dir": lambda: try_data(settings),
    }
    failed: set[str] = set()
    for key, attempt in attempts.items():
        if key == "data-dir" and failed & NEEDED:
            failed.add(key)
            console.print(f"failed  {key}: not tried, it needs {' and '.join(sorted(NEEDED))}")
            continue
        try:
            console.print(f"ok      {key}: {attempt()}")
        except UserError as error:
            failed.add(key)
            console.print(f"failed  {key}: {error}")
    if failed:
        raise UserError(f"{file}: {len(failed)} of {len(attempts)} checks failed")


def check_places(settings: SiteSettings, file: Path) -> None:
    """Check, before a site connects, that it can write where it has to.

    Raises
    ------
    UserError
        The cache or the audit log cannot be written.
    """
    for key, attempt in {"cache-dir": try_cache, "audit-log": try_log}.items():
        try:
            attempt(settings)
        except UserError as error:
            raise UserError(f"{file}: {key}: {error}") from None


def try_base(path: Path) -> str:
    """Load the base file as a site does, with the channel counts that its shapes tell.

    Raises
    ------
    UserError
        It cannot be read, or is another file than the weights of our U-Net.
    """
    sha256 = file_sha256(path)
    features = read_features(path)
    load_base(path, features)
    return f"{path}: U-Net of {','.join(map(str, features))} channels, SHA-256 {sha256}"


def read_features(path: Path) -> tuple[int, ...]:
    """Return the six channel counts of a base file, from the shapes of its tensors.

    Raises
    ------
    UserError
        It is not safetensors, or lacks one of the layers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            shapes = {name: file.get_slice(name).get_shape() for name in LEVELS if name in held}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None
    for name in LEVELS:
        if len(shapes.get(name, ())) != 4:
            raise UserError(
                f"{path}: found no weights {name!r} of a convolution, expected a base model: the "
                "U-Net that 'rate-my-lora pretrain' writes"
            )
    return tuple(shapes[name][0] for name in LEVELS)


def try_cache(settings: SiteSettings) -> str:
    """Try whether prepared volumes can be kept."""
    folder = Path(settings.cache_dir).expanduser()
    check_folder(folder / "volumes")
    return f"{folder}: can be written"


def try_log(settings: SiteSettings) -> str:
    """Try whether messages can be logged; nothing is added to the log."""
    path = settings.audit_path()
    check_log(path)
    return f"{path}: can be appended to"


def try_health(address: str) -> str:
    """Try whether the health service can listen.

    Raises
    ------
    UserError
        Something listens there already, or the address is not this machine's.
    """
    if not address:
        return "not set, so there is no health service"
    if is_port_in_use(address):
        raise UserError(
            f"{address}: in use, by this site if it is running already, or no address of this "
            "machine"
        )
    return f"{address}: free"


def try_data(settings: SiteSettings) -> str:
    """Read the site's data, which prepares it, too."""
    site = Site(settings, settings.applied(RunConfig()))
    counts = ", ".join(f"{len(cases)} {split}" for split, cases in site.cases.items())
    return f"{site.name}: {counts} cases, {len(site.slices)} training slices"
