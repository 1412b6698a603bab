"""Reading and writing adapters in the format of Hugging Face PEFT.

PEFT keeps an adapter in a folder of two files, which ``PeftModel.from_pretrained`` reads. The
factors of a convolution are convolutions themselves: A (r, c_in, k, k) and B (c_out, r, 1, 1).
This module needs neither pickles nor PEFT. Source: PEFT 0.21, ``tuners/lora/layer.py``
and ``utils/save_and_load.py``.
"""

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.adapter import Adapter
from common.errors import UserError
from common.files import parse_json, write_text
from common.lora import layer_shapes, target_layers
from common.tensor_files import read_tensors, write_tensors

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""PEFT's prefix of a layer's name."""

PLAIN: dict[str, Any] = {"peft_type": "LORA", "bias": "none"}
"""Settings that a PEFT configuration must have to be plain LoRA, W + scale · B·A."""
VARIANTS = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "lora_bias",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "modules_to_save",
)
"""Settings of other variants than plain LoRA, unless absent, null, false or empty."""

_KEY = re.compile(rf"{re.escape(PREFIX)}(?P<layer>.+)\.(?P<factor>lora_[AB])\.weight")


def save_peft(adapter: Adapter, model: nn.Module, folder: Path) -> None:
    """Write an adapter to a folder that ``PeftModel.from_pretrained(model, folder)`` reads.

    Parameters
    ----------
    adapter
        The factors.
    model
        The network of the adapter, for the names and kernels of its layers.
    folder
        Folder whose ``adapter_config.json`` and ``adapter_model.safetensors`` are replaced; it is
        made if it does not exist.

    Raises
    ------
    ValueError
        The adapter's layers or shapes are not this model's.
    """
    adapter.check_fits(layer_shapes(model))
    tensors = {}
    for name, layer in target_layers(model).items():
        A, B = adapter.layers[name]
        kernel = (layer.in_channels // layer.groups, *layer.kernel_size)
        # (r, c_in·k·k) -> (r, c_in, k, k) and (c_out, r) -> (c_out, r, 1, 1)
        tensors[f"{PREFIX}{name}.lora_A.weight"] = A.contiguous().view(-1, *kernel)
        tensors[f"{PREFIX}{name}.lora_B.weight"] = B.contiguous()[:, :, None, None]
    write_tensors(folder / TENSOR_FILE, tensors, {"format": "pt"})
    config = {
        **PLAIN,
        "r": adapter.rank,
        "lora_alpha": _alpha(adapter),
        "target_modules": sorted(adapter.layers),
        "lora_dropout": 0.0,
        "inference_mode": True,
        "task_type": None,
        "base_model_name_or_path": None,
    }
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2) + "\n")


def load_peft(folder: Path) -> Adapter:
    """Read a LoRA adapter of convolutions that PEFT or :func:`save_peft` wrote, as float32.

    Raises
    ------
    UserError
        A file is missing or broken, or the adapter is not plain LoRA on convolutions.
    """
    rank, alpha = _read_config(folder / CONFIG_FILE)
    path = folder / TENSOR_FILE
    tensors, _ = read_tensors(path, "a safetensors file")
    flat = {}
    for key, value in tensors.items():
        match = _KEY.fullmatch(key)
        if not match or not _is_factor(match["factor"], value):
            raise UserError(
                f"{path}: found {key} ({value.dtype}, {tuple(value.shape)}), expected only "
                f"{PREFIX}LAYER.lora_A.weight (r, c_in, k, k) and …lora_B.weight (c_out, r, 1, 1)"
            )
        if not torch.isfinite(value).all():
            raise UserError(f"{path}: {key} has values that are not finite")
        flat[f"{match['layer']}.{match['factor']}"] = value.flatten(1).float()
    try:
        adapter = Adapter.from_tensors(flat, alpha / rank)
    except ValueError as error:
        raise UserError(f"{path}: not a LoRA adapter ({error})") from None
    if adapter.rank != rank:
        raise UserError(f"{path}: found rank {adapter.rank}, expected r = {rank} of {CONFIG_FILE}")
    return adapter


def _alpha(adapter: Adapter) -> float:
    """Return alpha = scale · r, rounded where the whole number gives the same scale."""
    alpha = adapter.scale * adapter.rank
    return round(alpha) if round(alpha) / adapter.rank == adapter.scale else alpha


def _is_factor(name: str, value: Tensor) -> bool:
    """Return whether a tensor has the form of a convolution's ``lora_A`` or ``lora_B``."""
    pointwise = name == "lora_A" or value.shape[2:] == (1, 1)
    return value.is_floating_point() and value.dim() == 4 and pointwise


def _read_config(path: Path) -> tuple[int, float]:
    """Return rank and alpha of a PEFT configuration that is plain LoRA."""
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: found a {type(config).__name__}, expected a JSON object")
    for key, expected in PLAIN.items():
        if (found := config.get(key)) != expected:
            raise UserError(f"{path}: {key}: found {found!r}, expected {expected!r}")
    for key in VARIANTS:
        if found := config.get(key):
            raise UserError(f"{path}: {key}: found {found!r}, expected plain LoRA without it")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if type(rank) is not int or rank < 1:
        raise UserError(f"{path}: r: found {rank!r}, expected a whole number of at least 1")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise UserError(f"{path}: lora_alpha: found {alpha!r}, expected a number")
    return rank, alpha
