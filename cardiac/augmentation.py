"""Augment training slices at random, so that a network copes with other scanners.

The heart is rotated, scaled and shifted; contrast, brightness, noise, blur, resolution and coil
shading vary as between scanners. The set and its strengths follow the winning entries of the ACDC
and M&Ms challenges (Isensee et al. 2017; Full et al. 2020). Slices are not mirrored: hearts have
one handedness, and all slices are read into one orientation.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

from monai.data import get_track_meta, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandAffined,
    RandBiasFieldd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSimulateLowResolutiond,
    ResizeWithPadOrCropd,
)

KEYS = ("image", "label")


def training_transform(image_size: int, augment: bool, seed: int) -> Compose:
    """Return the transform of one training slice.

    It maps ``{"image": float32 (1, h, w), "label": uint8 (1, h, w)}`` to a square around the
    slice's centre with h = w = ``image_size``. Without ``augment`` it only crops or pads the slice.
    """
    if not augment:
        return Compose([ResizeWithPadOrCropd(KEYS, (image_size, image_size), mode="edge")])
    shift = image_size // 10  # a single number would shift rows alone
    transform = Compose(
        [
            RandAffined(
                KEYS,
                spatial_size=(image_size, image_size),
                prob=1.0,
                rotate_range=math.radians(30),
                scale_range=((-0.25, 0.25), (-0.25, 0.25)),
                translate_range=(shift, shift),
                mode=("bilinear", "nearest"),
                padding_mode="border",
            ),
            RandGaussianSmoothd("image", prob=0.15, sigma_x=(0.4, 1.2), sigma_y=(0.4, 1.2)),
            RandSimulateLowResolutiond(
                "image",
                prob=0.15,
                downsample_mode="area",
                upsample_mode="bilinear",
                zoom_range=(0.5, 1.0),
            ),
            RandBiasFieldd("image", prob=0.15, degree=2, coeff_range=(-0.3, 0.3)),
            RandAdjustContrastd("image", prob=0.4, gamma=(0.6, 1.6), retain_stats=True),
            RandScaleIntensityd("image", prob=0.3, factors=0.3),
            RandShiftIntensityd("image", prob=0.3, offsets=0.3),
            RandGaussianNoised("image", prob=0.2, std=0.15),
        ]
    )
    return transform.set_random_state(seed)


@contextmanager
def plain_tensors() -> Iterator[None]:
    """Turn off MONAI's metadata, which takes half of the time here and is not used."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
