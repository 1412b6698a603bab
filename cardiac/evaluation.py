"""Dice and HD95 of a model on 3-D volumes, on the grid of the files they came from."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import compute_dice, compute_hausdorff_distance
from torch import Tensor, nn

from cardiac.preprocessing import Volume, resample
from common.labels import NUM_CLASSES, STRUCTURES
from common.model import DOWNSAMPLING


@dataclass(frozen=True)
class Scores:
    """Scores of each case and structure; NaN where the truth has no such structure."""

    dice: np.ndarray
    """(cases, 3), in the order LV, MYO, RV."""
    hd95_mm: np.ndarray
    """(cases, 3), or empty when not measured. A structure that was missed altogether counts as
    the diagonal of the volume."""

    @property
    def cases(self) -> int:
        """Number of volumes."""
        return len(self.dice)

    @property
    def mean_dice(self) -> float:
        """P: the mean over structures in each volume, then over volumes."""
        return _by_structure(self.dice)["mean"]

    def without(self, structures: np.ndarray) -> "Scores":
        """Return the scores without some structures, bool (3,), whose scores become NaN."""
        return Scores(
            np.where(structures, np.nan, self.dice),
            np.where(structures, np.nan, self.hd95_mm) if self.hd95_mm.size else self.hd95_mm,
        )

    def summary(self) -> dict[str, dict[str, float]]:
        """Return ``{"dice": {"LV", "MYO", "RV", "mean"}, "hd95_mm": {…}}`` over the cases."""
        result = {"dice": _by_structure(self.dice)}
        if self.hd95_mm.size:
            result["hd95_mm"] = _by_structure(self.hd95_mm)
        return result


def _by_structure(values: np.ndarray) -> dict[str, float]:
    # The mean over no case at all is NaN, of which numpy warns
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        means = np.nanmean(values, axis=0)
        mean = np.nanmean(np.nanmean(values, axis=1))
    return {**dict(zip(STRUCTURES, means.tolist(), strict=True)), "mean": float(mean)}


@torch.inference_mode()
def predict_logits(model: nn.Module, image: Tensor, device: torch.device) -> Tensor:
    """Return logits (z, 4, h, w) for slices (z, 1, h, w) of any size, whole slices at once."""
    h, w = image.shape[-2:]
    padding = (0, _padding(w), 0, _padding(h))
    padded = F.pad(image.to(device), padding, mode="replicate")
    return model(padded)[..., :h, :w].float()  # type: ignore[no-any-return]


def _padding(size: int) -> int:
    """Return the pixels that pad a side to a multiple of ``DOWNSAMPLING``, and to two at least.

    Instance normalisation refuses a lowest level of one pixel.
    """
    return max(-size % DOWNSAMPLING, 2 * DOWNSAMPLING - size)


def predict_labels(
    model: nn.Module, image: Tensor, native_size: Sequence[int], device: torch.device
) -> Tensor:
    """Return labels uint8 (z, *native_size) for slices (z, 1, h, w) on the network's grid."""
    probabilities = predict_logits(model, image, device).softmax(1)
    best = resample(probabilities, native_size).max(1).indices  # argmax takes eight times as long
    return best.to("cpu", torch.uint8)


def evaluate(
    model: nn.Module, volumes: Iterable[Volume], device: torch.device, *, hd95: bool
) -> Scores:
    """Segment volumes and compare the result with their labels on the native grid.

    The model is moved to ``device`` and stays in evaluation mode. ``hd95`` asks for the 95th
    percentile of the Hausdorff distance as well, which is slow.
    """
    model.to(device).eval()
    found, distances = [], []
    for volume in volumes:
        truth = volume["native_label"]
        prediction = predict_labels(model, volume["image"], truth.shape[1:], device)
        found.append(dice(prediction, truth))
        if hd95:
            distances.append(_hd95_mm(prediction, truth, volume["native_spacing_mm"]))
    return Scores(np.stack(found), np.stack(distances) if hd95 else np.empty((0, 3)))


def present(label: Tensor) -> np.ndarray:
    """Return bool (3,): whether labels (z, h, w) have LV, MYO and RV."""
    return np.array([bool((label == value).any()) for value in range(1, NUM_CLASSES)])


def _one_hot(label: Tensor) -> Tensor:
    """Return labels (z, H, W) as indicator functions (1, 4, z, H, W)."""
    return F.one_hot(label.long(), NUM_CLASSES).permute(3, 0, 1, 2)[None]


def dice(prediction: Tensor, truth: Tensor) -> np.ndarray:
    """Return the Dice (3,) of LV, MYO and RV for labels (z, h, w); NaN where the truth has none."""
    found: Tensor = compute_dice(_one_hot(prediction), _one_hot(truth), include_background=False)
    return found[0].numpy()


def _hd95_mm(prediction: Tensor, truth: Tensor, spacing_mm: Tensor) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MONAI warns of an all-zero mask
        warnings.simplefilter("ignore", FutureWarning)  # of a call that MONAI itself makes
        distance = compute_hausdorff_distance(
            _one_hot(prediction),
            _one_hot(truth),
            include_background=False,
            percentile=95,
            spacing=spacing_mm.tolist(),
        )[0].numpy()
    extent = np.linalg.norm(np.array(truth.shape) * spacing_mm.numpy())
    distance = np.where(np.isfinite(distance), distance, extent)
    return np.where(present(truth), distance, np.nan)
