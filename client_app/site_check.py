"""``rate-my-lora join --check``: tries all that a site needs, one by one, without connecting.

Each ``try_`` function returns what it found, or raises a ``UserError`` that says what is wrong.
"""

import stat
from collections.abc import Callable
from pathlib import Path

from cardiac.splits import SPLITS, Split
from client_app.audit import AuditLog
from client_app.settings import SiteSettings
from client_app.site import Site
from common.config import RunConfig
from common.console import console
from common.errors import UserError
from common.files import close_to_others, remove_parts
from common.flower_private import is_port_in_use
from common.labels import STRUCTURES
from common.model import file_sha256, load_base, read_features
from common.writable import check_folder, check_log

EVALUATED: tuple[Split, ...] = ("val", "test")
LEFT_OVER_S = 3600.0
"""Age (s) from which a half-written file is a left-over, and not of a process at work."""
NEEDED = frozenset(("base-model", "cache-dir"))
"""Keys that must be right before the data can be tried."""


def check_site(settings: SiteSettings, health: str, file: Path) -> None:
    """Print for everything that a site needs whether it is ok or has failed.

    Parameters
    ----------
    settings
        The site's settings.
    health
        ``host:port`` of the health service; empty for none.
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
    """Check that a site can write its cache and its audit log, and others cannot write its cache.

    What it has written there before is closed to other users, and what a killed process left half
    written is removed.

    Raises
    ------
    UserError
        It cannot, or they can: who writes to the cache can approve runs.
    """
    for key, attempt in {"cache-dir": try_cache, "audit-log": try_log}.items():
        try:
            attempt(settings)
        except UserError as error:
            raise UserError(f"{file}: {key}: {error}") from None
    cache, log = Path(settings.cache_dir).expanduser(), settings.audit_path()
    if cache.is_dir() and (mode := stat.S_IMODE(cache.stat().st_mode)) & 0o002:
        raise UserError(
            f"{file}: cache-dir: {cache}: found mode {mode:04o}, by which others may approve runs "
            f"there, expected 0700: chmod 700 {cache}"
        )
    kept = [cache / name for name in ("volumes", "memory", "approvals", "ledger")]
    for path in (*kept, *cache.glob("privacy-*.json"), log, AuditLog(log).chain.head_path):
        close_to_others(path)
    for folder in (cache, log.parent, *kept, *(below for one in kept for below in one.glob("*/"))):
        remove_parts(folder, LEFT_OVER_S)


def try_base(path: Path) -> str:
    """Load the base file as a site does, with the channel counts that its shapes tell."""
    sha256 = file_sha256(path)
    features = read_features(path)
    load_base(path, features)
    return f"{path}: U-Net of {','.join(map(str, features))} channels, SHA-256 {sha256}"


def try_cache(settings: SiteSettings) -> str:
    """Check that prepared volumes can be written to the cache."""
    folder = Path(settings.cache_dir).expanduser()
    check_folder(folder / "volumes")
    return f"{folder}: can be written"


def try_log(settings: SiteSettings) -> str:
    """Check that messages can be logged, without adding one to the log."""
    path = settings.audit_path()
    check_log(path)
    AuditLog(path).chain.check_begun()
    return f"{path}: can be appended to"


def try_health(address: str) -> str:
    """Check that the health service can listen at its address."""
    if not address:
        return "not set, so there is no health service"
    if is_port_in_use(address):
        raise UserError(f"{address}: in use, maybe by this site, or not an address of this machine")
    return f"{address}: free"


def try_data(settings: SiteSettings) -> str:
    """Read the site's data, which also writes its prepared volumes to the cache."""
    site = Site(settings, settings.applied(RunConfig()))
    counts = ", ".join(f"{len(site.patients(split))} {split}" for split in SPLITS)
    total = sum(len(site.patients(split)) for split in SPLITS)
    told = f"{site.name}: {total} patients, split into {counts}; {len(site.slices)} train slices"
    hidden = (
        f"{structure} ({split})"
        for split in EVALUATED
        for structure, few in zip(STRUCTURES, site.hidden[split], strict=True)
        if few and site.cases[split]
    )
    few = ", ".join(hidden)
    return f"{told}; labelled in too few patients to be told: {few}" if few else told
