"""Random changes of a training slice, of the kind that carries segmentation across scanners.

Rotation, scale and shift of the heart in the image; contrast, brightness, noise, blur, lost
resolution and coil shading of the scanner. The set and its strengths follow what the winning
entries of the ACDC and M&Ms challenges report (Isensee et al. 2017; Full et al. 2020), with
MONAI's transforms. Mirroring is left out: hearts have one handedness, and slices are read into
one orientation.
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

    Parameters
    ----------
    image_size
        Side of the square that comes out, in pixels, around the slice's centre.
    augment
        Whether to change the slice at random; otherwise only crop or pad it.
    seed
        Seeds all that is random.

    Returns
    -------
    Compose
        Maps ``{"image": float32 (1, h, w), "label": uint8 (1, h, w)}`` to the same with
        h = w = ``image_size``.
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
    """Turn off MONAI's metadata: slices have none, and to keep it takes half of the time here."""
    before = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(before)
