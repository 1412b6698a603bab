"""``model.safetensors``: the folded network as a base file, and the configuration it needs."""

from pathlib import Path

import tomli_w

from common.files import write_text
from common.model import save_base
from results.export.exported_model import ExportedModel

CONFIG_KEYS = ("features", "spacing-mm")
"""What ``evaluate`` and ``predict`` must know of a base file."""


def write_weights(source: ExportedModel, folder: Path) -> list[Path]:
    """Write the folded weights and their ``config.toml``, for ``--base`` and ``--config``."""
    path, config = folder / "model.safetensors", folder / "config.toml"
    sha256 = save_base(source.network, path, source.notes)
    flat = source.config.to_flat()
    keys = {key: flat[key] for key in CONFIG_KEYS}
    write_text(config, tomli_w.dumps({**keys, "base-sha256": sha256}))
    return [path, config]
