"""Show a body as a scanner does: brightness, shading, blur, noise, and the scanner's grid."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
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
    """The look of a scanner's images, and the conventions of its files."""

    vendor: str
    model: str
    contrast: Contrast
    gamma: float
    """Exponent of the brightness curve, after noise."""
    noise: float
    """Rician sigma, as a fraction of the largest intensity."""
    bias: float
    """Strength of the coil's shading, which makes the near chest wall brighter."""
    blur_mm: float
    """Sigma of the in-plane point spread."""
    spacing_mm: float
    thickness_mm: float
    matrix: tuple[int, int]
    """Number of pixels to the right and down."""
    intensity_max: int
    axes: tuple[Direction, Direction] = ("right", "down")
    """Directions of the array's first and second axis in the standard view."""
    oblique: bool = False
    """Whether the affine tells how the slices lie; otherwise it is diagonal."""
    dtype: Literal["int16", "float64"] = "int16"
    field_tesla: float = 1.5


SOURCE = Scanner(
    vendor="SIEMENS",
    model="Aera",
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
    """Return a scanner between ``SOURCE`` (heterogeneity 0) and the vendor's (1), or beyond.

    Every number of the look follows a geometric path, so it stays positive. File conventions
    (axes, affine, data type) stay the vendor's.
    """

    def between(source: float, target: float) -> float:
        return float(source ** (1 - heterogeneity) * target**heterogeneity)

    def blended(of: object, to: object, names: Iterable[str]) -> dict[str, float]:
        return {name: between(getattr(of, name), getattr(to, name)) for name in names}

    look = ("gamma", "noise", "bias", "blur_mm", "spacing_mm", "thickness_mm")
    tissues = [spec.name for spec in fields(Contrast)]
    width, height = map(between, SOURCE.matrix, vendor.matrix)
    return replace(
        vendor,
        contrast=Contrast(**blended(SOURCE.contrast, vendor.contrast, tissues)),
        matrix=(round(width), round(height)),
        intensity_max=round(between(SOURCE.intensity_max, vendor.intensity_max)),
        **blended(SOURCE, vendor, look),  # type: ignore[arg-type]
    )


def tune(scanner: Scanner, rng: np.random.Generator) -> Scanner:
    """Vary the look at random, as the coil's load and the settings do between patients."""
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
    """Return the image (w, h, z) of a body's layers in whole numbers up to ``intensity_max``.

    ``rng`` draws texture, shading and noise.
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
    """Blur the first two axes of (w, h, z) by a Gaussian of ``sigma`` pixels."""

    def kernel(size: int) -> Array:
        offset = np.arange(size)[:, None] - np.arange(size)
        weights = np.exp(-0.5 * (offset / sigma) ** 2)
        weights /= weights.sum(axis=1, keepdims=True)
        return weights.astype(np.float32)

    width, height, slices = image.shape
    across = (kernel(width) @ image.reshape(width, height * slices)).reshape(image.shape)
    blurred: Array = np.matmul(kernel(height), across)
    return blurred
