"""``Adapter``, the LoRA factors of a whole model, and its safetensors file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import torch
from torch import Tensor

from common.errors import UserError
from common.files import cut_name
from common.tensor_files import read_tensors, write_tensors

BASE_NOTE = "base-sha256"
"""Key in an adapter file's notes: the SHA-256 of the base that it was trained on."""


class Factors(NamedTuple):
    """The two LoRA factors of one layer; its weight changes by scale · B·A."""

    A: Tensor
    """(rank, c_in·k·k)"""
    B: Tensor
    """(c_out, rank)"""


@dataclass(frozen=True)
class Adapter:
    """All LoRA factors of a model."""

    layers: Mapping[str, Factors]
    """Factors by layer name, all of one rank."""
    scale: float
    """alpha / rank: the delta of a layer is scale · B·A."""

    @property
    def rank(self) -> int:
        """The rank of every layer's factors."""
        return next(iter(self.layers.values())).A.shape[0]

    @property
    def payload_bytes(self) -> int:
        """Bytes of all factors."""
        return sum(t.nbytes for t in self.tensors().values())

    def delta(self, name: str) -> Tensor:
        """Return the dense weight change of one layer, (c_out, c_in·k·k)."""
        factors = self.layers[name]
        return self.scale * (factors.B @ factors.A)

    def truncated(self, rank: int) -> "Adapter":
        """Return the first ``rank`` components of every layer, or itself if its rank is no higher.

        After a merge by SVD these are the strongest: the best approximation of that rank.
        """
        if rank >= self.rank:
            return self
        layers = {
            name: Factors(f.A[:rank].contiguous(), f.B[:, :rank].contiguous())
            for name, f in self.layers.items()
        }
        return Adapter(layers, self.scale)

    def tensors(self) -> dict[str, Tensor]:
        """Return the factors flat: ``LAYER.lora_A`` and ``LAYER.lora_B``, sorted by layer."""
        flat = {}
        for name, factors in sorted(self.layers.items()):
            flat[f"{name}.lora_A"] = factors.A
            flat[f"{name}.lora_B"] = factors.B
        return flat

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], scale: float) -> "Adapter":
        """Return the adapter of tensors named as by :meth:`tensors`.

        Raises
        ------
        ValueError
            A name is not a factor's, a layer lacks A or B, or ranks differ.
        """
        halves: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            name, _, kind = key.rpartition(".")
            if kind not in ("lora_A", "lora_B") or value.dim() != 2:
                raise ValueError(f"unexpected tensor {key} of shape {tuple(value.shape)}")
            halves.setdefault(name, {})[kind] = value
        layers = {}
        for name, half in sorted(halves.items()):
            if missing := {"lora_A", "lora_B"} - set(half):
                raise ValueError(f"{name}.{missing.pop()} is missing")
            layers[name] = Factors(half["lora_A"], half["lora_B"])
        ranks = {rank for f in layers.values() for rank in (f.A.shape[0], f.B.shape[1])}
        if len(ranks) != 1:
            raise ValueError(f"expected one rank in all layers, found {sorted(ranks)}")
        return cls(layers, scale)

    def check_fits(self, shapes: Mapping[str, tuple[int, int]]) -> None:
        """Raise ValueError unless layers and shapes are a model's, (c_out, c_in·k·k) by name."""
        if missing := sorted(set(shapes) - set(self.layers)):
            raise ValueError(f"layer {missing[0]} is missing ({len(missing)} in all)")
        if extra := sorted(set(self.layers) - set(shapes)):
            raise ValueError(f"layer {extra[0]} is not in the model ({len(extra)} in all)")
        for name, (c_out, fan_in) in shapes.items():
            found = (self.layers[name].B.shape[0], self.layers[name].A.shape[1])
            if found != (c_out, fan_in):
                raise ValueError(f"layer {name}: shape {found}, expected {(c_out, fan_in)}")


def site_file(site: str) -> str:
    """Return the file name of a site's adapter, percent-encoded as other machines name sites."""
    return f"{cut_name(quote(site, safe=''))}.safetensors"


def save_adapter(adapter: Adapter, path: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write an adapter as safetensors, with its scale and any ``notes`` in the metadata."""
    metadata = {**(notes or {}), "scale": json.dumps(adapter.scale)}
    write_tensors(path, adapter.tensors(), metadata)


def load_adapter(path: Path) -> tuple[Adapter, dict[str, str]]:
    """Read an adapter and the notes beside it.

    Raises
    ------
    UserError
        The file is missing, damaged or not an adapter.
    """
    tensors, notes = read_tensors(path, "an adapter file")
    try:
        scale = float(notes.pop("scale"))
        adapter = Adapter.from_tensors(tensors, scale)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not an adapter file ({error})") from None
    if not all(torch.isfinite(value).all() for value in (torch.tensor(scale), *tensors.values())):
        raise UserError(f"{path}: the adapter has values that are not finite")
    return adapter, notes


def check_base(path: Path, notes: Mapping[str, str], base: Path, sha256: str) -> None:
    """Raise UserError where an adapter's notes name another base than the one given.

    Parameters
    ----------
    path, notes
        The adapter's file and the notes in it.
    base, sha256
        The base file and its fingerprint.
    """
    if notes.get(BASE_NOTE, sha256) != sha256:
        raise UserError(
            f"{path}: was trained on the base with SHA-256 {notes[BASE_NOTE]}, found {base} with "
            f"{sha256}"
        )
