"""The model to export: base, adapter and configuration, checked against each other."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from monai.networks.nets import BasicUNet

from common import lora
from common.adapter import BASE_NOTE, Adapter, check_base, load_adapter
from common.config import RunConfig
from common.errors import UserError
from common.model import file_sha256, load_base
from results.run_reader import RunFiles, read_run
from server_app.run_config import load_config
from server_app.run_dir import RunDir


@dataclass(frozen=True)
class AdapterFile:
    """An adapter and the SHA-256 of its file."""

    adapter: Adapter
    sha256: str


@dataclass(frozen=True)
class ExportedModel:
    """A model to export."""

    config: RunConfig
    """The configuration of the run, or of the file that the user gave."""
    base: Path
    """Base file."""
    base_sha256: str
    adapter: AdapterFile | None
    """None where the base alone is exported."""
    run: RunFiles | None
    """The files of the run; None where the export has no run."""

    @cached_property
    def network(self) -> BasicUNet:
        """The base with the adapter folded in, in evaluation mode."""
        model = load_base(
            self.base, self.config.model.channels(), sha256=self.config.base_sha256
        ).eval()
        if self.adapter is not None:
            lora.fold(model, self.adapter.adapter)
        return model

    @property
    def notes(self) -> dict[str, str]:
        """The SHA-256 of base and adapter, by the names under which files note them."""
        notes = {BASE_NOTE: self.base_sha256}
        if self.adapter is not None:
            notes["adapter-sha256"] = self.adapter.sha256
        return notes


def read_model(
    base: Path | None, adapter: Path | None, run: Path | None, config: Path | None
) -> ExportedModel:
    """Read the model to export and check that its files belong together.

    Raises
    ------
    UserError
        A file is missing or broken, or the adapter was trained on another base.
    """
    if run is not None and (adapter is not None or config is not None):
        other = "--adapter" if adapter is not None else "--config"
        raise UserError(f"{other}: found beside --run, expected one of them; a run has its own")
    files = None
    if run is None:
        settings = load_config(config)
    else:
        adapter = RunDir(run).adapter
        if not adapter.is_file():
            raise UserError(f"{run}: no result in this folder, expected {adapter.name} in it")
        files = read_run(run)
        settings = files.config
    factors, notes = load_adapter(adapter) if adapter is not None else (None, {})
    wanted = notes.get(BASE_NOTE) or settings.base_sha256
    if base is None:
        base = _find_base(settings, wanted, run)
    sha256 = file_sha256(base)
    if adapter is not None:
        check_base(adapter, notes, base, sha256)
    network = load_base(base, settings.model.channels(), sha256=settings.base_sha256)
    if factors is None or adapter is None:
        return ExportedModel(settings, base, sha256, None, files)
    try:
        factors.check_fits(lora.layer_shapes(network))
    except ValueError as error:
        raise UserError(f"{adapter}: does not fit {base}: {error}") from None
    return ExportedModel(settings, base, sha256, AdapterFile(factors, file_sha256(adapter)), files)


def _find_base(config: RunConfig, wanted: str, run: Path | None) -> Path:
    """Return the base file that the configuration names, or the one that the demo made."""
    if run is None and not config.base_model:
        raise UserError("--base: missing, expected the base file")
    if config.base_model:
        path = config.path(config.base_model)
        if path.is_file():
            return path
    for path in sorted(config.path(config.data.cache_dir).glob("base-*.safetensors")):
        if wanted and file_sha256(path) == wanted:
            return path
    raise UserError(
        f"--base: missing, and neither base-model = {config.base_model!r} nor cache-dir = "
        f"{config.data.cache_dir!r} of the configuration has the base file here; expected the "
        f"one with SHA-256 {wanted or '(not recorded)'}"
    )
