"""The base model: MONAI's U-Net, its file and its SHA-256."""

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
from monai.networks.nets import BasicUNet
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from common.labels import NUM_CLASSES
from common.tensor_files import read_tensors, write_tensors

DOWNSAMPLING = 16
"""The U-Net halves its input four times, so slices are padded to a multiple of this."""
LEVELS = (
    "conv_0.conv_0.conv.weight",
    *(f"down_{level}.convs.conv_0.conv.weight" for level in range(1, 5)),
    "upcat_1.convs.conv_0.conv.weight",
)
"""Weights whose first axes are the U-Net's channel counts, in the order of ``features``."""


def build_unet(features: tuple[int, ...]) -> BasicUNet:
    """Return an untrained U-Net for slices of shape (batch, 1, h, w).

    Parameters
    ----------
    features
        Six channel counts: five levels from fine to coarse and the last decoder level.
        (32, 64, 128, 256, 512, 32) is the paper's size, 7.78 M parameters.

    Returns
    -------
    BasicUNet
        Maps (batch, 1, h, w) to logits (batch, 4, h, w); h and w multiples of 16.
    """
    return BasicUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=NUM_CLASSES,
        features=features,
        norm=("instance", {"affine": True}),
    )


@lru_cache(maxsize=8)
def skeleton(features: tuple[int, ...]) -> BasicUNet:
    """Return the U-Net with its layers' names and shapes, but no memory for its weights.

    It is kept for the next call, so nobody may change it.
    """
    with torch.device("meta"):
        return build_unet(features)


def weight_shapes(model: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight by name; the model may be a :func:`skeleton`."""
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def save_base(model: torch.nn.Module, path: Path, notes: Mapping[str, str] | None = None) -> str:
    """Write the model's weights and ``notes`` as safetensors; return the file's SHA-256."""
    write_tensors(path, model.state_dict(), notes)
    return file_sha256(path)


def load_base(path: Path, features: tuple[int, ...], *, sha256: str = "") -> BasicUNet:
    """Return the U-Net with the weights of a base file, frozen.

    Parameters
    ----------
    path
        A file written by :func:`save_base`.
    features
        Channel counts that the file must fit.
    sha256
        Expected SHA-256 in hex; empty to accept any.

    Raises
    ------
    UserError
        The file is missing, unreadable or has another SHA-256 or other shapes.
    """
    found = file_sha256(path)
    if sha256 and found != sha256.lower():
        raise UserError(f"{path}: SHA-256 is {found}, expected {sha256}")
    tensors, _ = read_tensors(path, "a safetensors file")
    model = build_unet(features)
    expected = weight_shapes(model)
    for name, shape in expected.items():
        if name not in tensors or tuple(tensors[name].shape) != shape:
            got = tuple(tensors[name].shape) if name in tensors else "nothing"
            raise UserError(
                f"{path}: does not fit features {features}: {name} is {got}, expected {shape}"
            )
    if extra := sorted(set(tensors) - set(expected)):
        raise UserError(f"{path}: has tensors that the model does not have: {extra[:3]}")
    model.load_state_dict(tensors)
    return model.requires_grad_(False)


def read_features(path: Path) -> tuple[int, ...]:
    """Return the six channel counts of a base file, from the shapes of its tensors."""
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


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hex; raises UserError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot read the file ({error.strerror})") from None


def weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of all the model's weights."""
    return sum(value.nbytes for value in model.state_dict().values())
