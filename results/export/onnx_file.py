"""``model.onnx``: the folded network for ONNX Runtime and other readers of ONNX."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch

from cardiac.preprocessing import CLIP_PERCENTILES
from common.errors import UserError
from common.files import replace_file
from common.labels import STRUCTURES
from common.model import DOWNSAMPLING
from results.export.exported_model import ExportedModel

OPSET = 18
PACKAGES = ("onnx", "onnxscript")


def check_packages() -> None:
    """Check that the optional packages are installed.

    Raises
    ------
    UserError
        A package is missing.
    """
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"--format onnx: the package {' and '.join(missing)} is not installed; "
            "pip install 'rate-my-lora[onnx]', or name other formats"
        )


def write_onnx(source: ExportedModel, path: Path) -> None:
    """Write the network, which maps ``image`` (batch, 1, h, w) to ``logits`` (batch, 4, h, w).

    Batch, h and w are free; h and w are multiples of 16 and at least 32.
    """
    sides = [DOWNSAMPLING * torch.export.Dim(name) for name in ("h_16", "w_16")]
    batch = torch.export.Dim("batch")
    example = torch.zeros(2, 1, 4 * DOWNSAMPLING, 6 * DOWNSAMPLING)
    with _quiet():
        program = torch.onnx.export(
            source.network,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: batch, 2: sides[0], 3: sides[1]},),
        )
    assert program is not None
    model = program.model_proto
    for key, value in _metadata(source).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    with replace_file(path) as temporary:
        temporary.write_bytes(model.SerializeToString())


def _metadata(source: ExportedModel) -> dict[str, str]:
    """Return what a program must know to use the network, as text, which ONNX asks for."""
    low, high = CLIP_PERCENTILES
    return {
        "labels": json.dumps(dict(enumerate(("background", *STRUCTURES)))),
        "spacing-mm": str(source.config.data.spacing_mm),
        "normalisation": (
            f"volume clipped at its percentiles {low} and {high}, then mean 0, deviation 1"
        ),
        "view": "short-axis slice, rows downwards, RV to the left, lungs above",
        "sides": f"multiples of {DOWNSAMPLING}, at least {2 * DOWNSAMPLING}; pad with the edge",
        **source.notes,
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about itself, which no user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision is missing, which is not used
    try:
        with warnings.catch_warnings():
            # torch.export copies its own deprecated class
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)
