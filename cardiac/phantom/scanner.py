"""How a scanner shows a body: brightness, shading, blur, noise, and its grid."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np

from cardiac.phantom.beat import Grid
from cardiac.phantom.orientation import Direction
from cardiac.phantom.shapes import Array, Layer, draw_field


@dataclass(frozen=True)
class Contrast:
    """Brightness of each tissue, as a fraction of the scanner's largest intensity."""

    blood: float
    myocardium: float
    fat: float
    lung: float
    liver: float
    background: float


@dataclass(frozen=True)
class Scanner:
    """A vendor's look and file conventions."""

    vendor: str
    model: str
    field_tesla: float
    contrast: Contrast
    gamma: float
    """Exponent of the brightness curve, after noise."""
    noise: float
    """Rician sigma, as a fraction of the largest intensity."""
    bias: float
    """Strength of the coil's shading: how much brighter the near chest wall is."""
    blur_mm: float
    """Sigma of the in-plane point spread."""
    spacing_mm: float
    thickness_mm: float
    matrix: tuple[int, int]
    """Pixels to the right and down."""
    intensity_max: int
    axes: tuple[Direction, Direction] = ("right", "down")
    """Where the first and second axis of the array go in the standard view."""
    oblique: bool = False
    """Whether the affine says where the slices lie; otherwise it is diagonal."""
    dtype: Literal["int16", "float64"] = "int16"


SOURCE = Scanner(
    vendor="SIEMENS",
    model="Aera",
    field_tesla=1.5,
    contrast=Contrast(0.66, 0.26, 0.82, 0.06, 0.29, 0.012),
    gamma=1.0,
    noise=0.015,
    bias=0.15,
    blur_mm=0.8,
    spacing_mm=1.5,
    thickness_mm=10.0,
    matrix=(136, 136),
    intensity_max=255,
)
"""The scanner of the ACDC phantom, on which the base model is pretrained."""

VENDORS = {
    scanner.vendor: scanner
    for scanner in (
        Scanner(
            vendor="SIEMENS",
            model="Avanto",
            field_tesla=1.5,
            contrast=Contrast(0.55, 0.26, 0.70, 0.08, 0.33, 0.012),
            gamma=1.5,
            noise=0.06,
            bias=0.6,
            blur_mm=1.2,
            spacing_mm=1.35,
            thickness_mm=9.0,
            matrix=(144, 152),
            intensity_max=1200,
        ),
        Scanner(
            vendor="Philips Medical Systems",
            model="Achieva",
            field_tesla=1.5,
            contrast=Contrast(0.69, 0.29, 0.60, 0.11, 0.38, 0.020),
            gamma=0.85,
            noise=0.04,
            bias=0.25,
            blur_mm=0.6,
            spacing_mm=1.2,
            thickness_mm=10.0,
            matrix=(160, 160),
            intensity_max=2000,
            oblique=True,
        ),
        Scanner(
            vendor="GE MEDICAL SYSTEMS",
            model="SIGNA EXCITE",
            field_tesla=1.5,
            contrast=Contrast(0.50, 0.27, 0.50, 0.09, 0.37, 0.014),
            gamma=1.3,
            noise=0.03,
            bias=0.35,
            blur_mm=1.5,
            spacing_mm=1.6,
            thickness_mm=8.0,
            matrix=(128, 120),
            intensity_max=4600,
            axes=("up", "right"),
            oblique=True,
            dtype="float64",
        ),
    )
}
"""The scanners of the M&Ms-2 phantom by the name the data set gives their vendor."""


def blend(vendor: Scanner, heterogeneity: float) -> Scanner:
    """Return a scanner on the way from ``SOURCE`` (0) to the vendor's (1), or beyond.

    Every number goes along a geometric path, so it stays positive. File conventions (axes,
    affine, data type) are no matter of looks and stay the vendor's.
    """

    def between(source: float, target: float) -> float:
        return float(source ** (1 - heterogeneity) * target**heterogeneity)

    contrast = asdict(vendor.contrast)
    for tissue, source in asdict(SOURCE.contrast).items():
        contrast[tissue] = between(source, contrast[tissue])
    return replace(
        vendor,
        contrast=Contrast(**contrast),
        gamma=between(SOURCE.gamma, vendor.gamma),
        noise=between(SOURCE.noise, vendor.noise),
        bias=between(SOURCE.bias, vendor.bias),
        blur_mm=between(SOURCE.blur_mm, vendor.blur_mm),
        spacing_mm=between(SOURCE.spacing_mm, vendor.spacing_mm),
        thickness_mm=between(SOURCE.thickness_mm, vendor.thickness_mm),
        matrix=(
            round(between(SOURCE.matrix[0], vendor.matrix[0])),
            round(between(SOURCE.matrix[1], vendor.matrix[1])),
        ),
        intensity_max=round(between(SOURCE.intensity_max, vendor.intensity_max)),
    )


def tune(scanner: Scanner, rng: np.random.Generator) -> Scanner:
    """Vary the look from one patient to the next, as loading and settings do."""
    contrast = {
        tissue: level * float(np.exp(rng.normal(0, 0.05)))
        for tissue, level in asdict(scanner.contrast).items()
    }
    gain, noise, bias = np.exp(rng.normal(0, (0.06, 0.15, 0.2)))
    return replace(
        scanner,
        contrast=Contrast(**{tissue: level * float(gain) for tissue, level in contrast.items()}),
        noise=scanner.noise * float(noise),
        bias=scanner.bias * float(bias),
    )


def acquire(
    scanner: Scanner, layers: Iterable[Layer], grid: Grid, rng: np.random.Generator
) -> Array:
    """Image a body: (w, h, z) of whole intensities from 0 to ``scanner.intensity_max``.

    Parameters
    ----------
    scanner
        The look.
    layers
        The body's tissues, each covering the ones before.
    grid
        Where the voxels lie.
    rng
        Draws texture, shading and noise.
    """
    shape = (grid.x.size, grid.y.size, grid.s.size)
    image: Array = np.full(shape, scanner.contrast.background, np.float32)
    brightness = asdict(scanner.contrast)
    for tissue, share in layers:
        image += share * (np.float32(brightness[tissue.value]) - image)
    at = grid.x, grid.y, grid.s
    coarse, fine, shade = (draw_field(rng, grain)(*at) for grain in (30, 8, 90))
    image *= 1 + 0.06 * coarse + 0.06 * fine
    image *= np.exp(rng.normal(0, 0.04, shape[2])).astype(np.float32)  # slice by slice
    towards_coil = -grid.x / 100 - grid.y / 250 + 0.3 * shade
    image *= np.exp(np.float32(scanner.bias) * towards_coil)
    image = _blur(image, scanner.blur_mm / grid.pixel_mm)
    real, imaginary = rng.standard_normal((2, *shape), np.float32) * np.float32(scanner.noise)
    image = np.hypot(image + real, imaginary) ** np.float32(scanner.gamma)
    levels: Array = np.rint(np.clip(image, 0, 1) * scanner.intensity_max)
    return levels


def _blur(image: Array, sigma: float) -> Array:
    """Gaussian blur of the first two axes of (w, h, z), in pixels."""

    def kernel(size: int) -> Array:
        offset = np.arange(size)[:, None] - np.arange(size)
        weights = np.exp(-0.5 * (offset / sigma) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights.astype(np.float32)

    width, height, slices = image.shape
    across = (kernel(width) @ image.reshape(width, height * slices)).reshape(image.shape)
    blurred: Array = np.matmul(kernel(height), across)
    return blurred
