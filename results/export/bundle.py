"""``bundle/``: the model as a MONAI Bundle, for MONAI Label and MONAI Deploy."""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata

from common.files import replace_file, write_text
from results.export.bundle_configs import inference, metadata
from results.export.exported_model import ExportedModel

LICENSE = """\
The configuration files of this bundle come from Rate-My-LoRA on Flower and are under the Apache
License, Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

The weights (models/) are no part of that. They derive from a base model and from the data that it
and its adapter were trained on, and this file grants no licence to them: whoever exported the
bundle decides, within the licences of those data. Data sets such as ACDC and M&Ms are for research
and set conditions on what is made of them.
"""


def write_bundle(source: ExportedModel, folder: Path) -> list[Path]:
    """Write the bundle and return its files.

    ``docs/README.md`` is left out, as it lists the SHA-256 of all files.
    """
    configs = {"metadata.json": metadata(source), "inference.json": inference(source)}
    for name, content in configs.items():
        write_text(folder / "configs" / name, json.dumps(content, indent=2) + "\n")
    write_text(folder / "LICENSE", LICENSE)
    weights, script = folder / "models" / "model.pt", folder / "models" / "model.ts"
    with replace_file(weights) as temporary:
        torch.save(source.network.state_dict(), temporary)
    _write_script(source, configs, script)
    return [*(folder / "configs" / name for name in configs), folder / "LICENSE", weights, script]


def _write_script(source: ExportedModel, configs: dict[str, dict[str, Any]], path: Path) -> None:
    """Write the network as TorchScript that holds the configurations, for MONAI Deploy."""
    with warnings.catch_warnings():
        # torch deprecates TorchScript, but MONAI Deploy needs it
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        scripted = torch.jit.script(source.network)
        with replace_file(path) as temporary:
            save_net_with_metadata(
                scripted,
                str(temporary),
                include_config_vals=False,  # they have the time, and metadata.json has the rest
                meta_values=configs["metadata.json"],
                more_extra_files={"inference.json": json.dumps(configs["inference.json"]).encode()},
            )
