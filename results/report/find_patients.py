"""Finds the images of a run for its report, and keeps the scores of its patients in a file.

In a real federation the server has no images, so this works only where they are: on the machine of
a simulation, or at a site for its own patients.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client_app import demo
from common.adapter import BASE_NOTE, load_adapter, site_file
from common.config import DataConfig, RunConfig
from common.errors import UserError
from common.files import parse_json, write_text
from common.model import file_sha256
from common.progress import Advance
from results.report.patient_scores import score_patients
from results.report.patients import Patients
from results.run_reader import RunFiles
from server_app.run_dir import RunDir

VERSION = 1
"""Part of the key of kept scores; raise it when the meaning of the scores changes."""
MOST_SITES = 12
"""Most sites with which every adapter is scored on every other site's patients."""
MOST_ROUNDS = 6
"""Most rounds whose adapters are scored in this way."""


@dataclass(frozen=True)
class Inputs:
    """The files from which the scores of single patients are computed."""

    data: Path
    """Folder of all sites' cases."""
    base: Path
    """Base file."""
    adapter: Path
    """The run's result, or its checkpoint while it goes on."""
    updates: dict[int, dict[str, Path]]
    """Files of the sites' own adapters by round and site, for rounds in which all have one."""

    def key(self, data: DataConfig) -> dict[str, Any]:
        """Return all that the scores depend on."""
        own = [file_sha256(path) for sites in self.updates.values() for path in sites.values()]
        return {
            "version": VERSION,
            "adapter": file_sha256(self.adapter),
            "base": file_sha256(self.base),
            "updates": hashlib.sha256("".join(own).encode()).hexdigest(),
            "data": [
                *(str(self.data.resolve()), data.split_by, data.split_seed),
                *(data.spacing_mm, data.affine_axes),
            ],
        }


def find_inputs(run: RunFiles, data: Path | None, base: Path | None) -> Inputs | str:
    """Return the files to compute from, or the reason why there are none.

    Where ``data`` or ``base`` is None, the file is the one that the run's configuration names, or
    else the demo's.

    Raises
    ------
    UserError
        The base is not the one that the run used.
    """
    config = run.config
    folder = RunDir(run.path)
    adapter = next(filter(Path.is_file, (folder.adapter, folder.checkpoint)), None)
    if adapter is None or run.deployed or _apart(config):
        return _unscored(run)
    if data is None and config.data.data_dir:
        data = config.path(config.data.data_dir)
        if not data.is_dir():
            return f"data-dir {data} is not here"
    if base is None and config.base_model:
        base = config.path(config.base_model)
        if not base.is_file():
            return f"base-model {base} is not here"
    if data is None or base is None:
        phantom = _phantom(config)
        if phantom is None:
            return "the run's configuration names no data folder and base file for all sites"
        data, base = data or phantom.data_dir, base or phantom.base_model
        if _base_of(adapter, config) != file_sha256(base):
            return "the run's configuration names no base file, and its base is not the demo's"
    expected, found = _base_of(adapter, config), file_sha256(base)
    if expected and found != expected:
        raise UserError(f"{base}: SHA-256 is {found}, expected {expected} as in {run.path}")
    return Inputs(data, base, adapter, _updates(run))


def _apart(config: RunConfig) -> bool:
    return config.method.sends != "all" or config.method.trains == "weights"


def _unscored(run: RunFiles) -> str:
    """Return why no patients can be scored where the run is deployed or has no adapter."""
    if run.deployed:
        return "each site split its patients by its own settings, which the run does not record"
    return f"the run has no adapter {'that all sites share' if _apart(run.config) else 'yet'}"


def _phantom(config: RunConfig) -> demo.Provided | None:
    """Return the demo's phantom and base, or None where they have not been made here."""
    folder = config.path(config.data.cache_dir) / f"phantom-{demo.PHANTOM_VERSION}"
    if not folder.is_dir():
        return None
    provided = demo.provide(config, need_base=False)
    return provided if provided.base_model.is_file() else None


def _base_of(adapter: Path, config: RunConfig) -> str:
    """Return the SHA-256 of the run's base; empty where it is not recorded."""
    return load_adapter(adapter)[1].get(BASE_NOTE, "") or config.base_sha256


def _updates(run: RunFiles) -> dict[int, dict[str, Path]]:
    """Return the sites' adapters by round; none where merges are folded, as they need that base."""
    if run.config.method.folds or not 1 < len(run.sites) <= MOST_SITES:
        return {}
    complete, folder = {}, RunDir(run.path)
    for line in run.rounds:
        files = {site: folder.updates_of(line["round"]) / site_file(site) for site in run.sites}
        if all(path.is_file() for path in files.values()):
            complete[line["round"]] = files
    evenly = np.linspace(0, len(complete) - 1, min(MOST_ROUNDS, len(complete))).round().astype(int)
    rounds = sorted(complete)
    return {rounds[place]: complete[rounds[place]] for place in evenly}


def patients_of(run: RunFiles, inputs: Inputs, report: Advance) -> Patients:
    """Return scores and pictures of single patients, from ``patients.json`` where that still fits.

    Raises
    ------
    UserError
        The data lack a site of the run, or a file is broken.
    """
    kept, key = run.path / "patients.json", inputs.key(run.config.data)
    with suppress(OSError, ValueError, KeyError, TypeError):  # of a broken file: compute anew
        content = parse_json(kept.read_text("utf-8"))
        if content["key"] == key:
            return Patients.from_json(content)
    patients = score_patients(
        run.sites, inputs.data, inputs.base, inputs.adapter, inputs.updates, run.config, report
    )
    write_text(kept, json.dumps({"key": key, **patients.to_json()}) + "\n")
    return patients
