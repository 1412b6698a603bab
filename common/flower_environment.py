"""The environment that Flower's own processes are started with."""

import os
import sys
from pathlib import Path

SETTINGS = {
    # Nothing is reported to Flower's makers
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    # Flower would install what the app needs anew for every run
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
SCRIPTS = Path(sys.executable).parent
"""Folder of the console commands that Flower and this package install."""
UNREGISTERED = "RATE_MY_LORA_UNREGISTERED"
"""Set for the server of a run whose sites are not registered: a simulation, or a trial whose
SuperLink takes any site. A site then has another key at each start, so no name can belong to it."""
LOOPBACK = ("127.0.0.1", "localhost")


def environment() -> dict[str, str]:
    """Return the environment of this process with ``SETTINGS``.

    Flower looks up its own programs by name, so the folder of this Python is on the path. They talk
    over HTTP on the loopback interface, so no proxy is used there.
    """
    bypass = os.environ.get("no_proxy", os.environ.get("NO_PROXY", ""))
    proxies = ",".join(filter(None, (bypass, *LOOPBACK)))
    path = f"{SCRIPTS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **SETTINGS, "NO_PROXY": proxies, "no_proxy": proxies, "PATH": path}
