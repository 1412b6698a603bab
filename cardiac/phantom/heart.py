"""Draw a patient's heart: the typical shape and motion of a disease, varied at random."""

from dataclasses import dataclass, replace

import numpy as np

from cardiac.phantom.shapes import Field, draw_field


@dataclass(frozen=True)
class Shape:
    """Size and motion of a heart.

    The left ventricle is a prolate ellipsoid cut off at the base, the myocardium is a wall around
    it, and the right ventricle is a crescent on its septum.
    """

    radius_mm: float
    """Largest radius of the LV cavity in end-diastole."""
    length_mm: float
    """Length of the LV cavity from base to apex in end-diastole."""
    wall_mm: float
    """Thickness of the wall in end-diastole."""
    rv_width_mm: float
    """Largest width of the RV from septum to free wall in end-diastole."""
    squeeze: float
    """LV radius in end-systole over that in end-diastole."""
    shortening: float
    """LV length in end-systole over that in end-diastole."""
    rv_squeeze: float
    """RV width in end-systole over that in end-diastole."""
    septal_bulge: float
    """Extra thickness of the septum, as a fraction of the wall's."""
    septal_flattening: float
    """Depth to which a strained RV presses the septum in, as a fraction of the LV's radius."""
    scar: float
    """1 where a sector of the wall is thinned and does not contract (infarction), else 0."""


DISEASES = {
    "NOR": Shape(27.5, 70.0, 8.5, 35.0, 0.70, 0.85, 0.68, 0.1, 0.0, 0.0),
    "DCM": Shape(34.0, 74.0, 6.5, 34.0, 0.90, 0.95, 0.85, 0.0, 0.0, 0.0),
    "HCM": Shape(22.0, 66.0, 11.0, 32.0, 0.58, 0.85, 0.65, 0.8, 0.0, 0.0),
    "MINF": Shape(29.0, 70.0, 8.0, 33.0, 0.76, 0.90, 0.75, 0.1, 0.0, 1.0),
    "RV": Shape(25.0, 66.0, 8.5, 50.0, 0.72, 0.86, 0.88, 0.1, 0.1, 0.0),
}
"""Typical hearts by diagnosis, in ACDC's words: normal, dilated, hypertrophic, infarcted, and
with an abnormal right ventricle."""


@dataclass(frozen=True)
class Heart:
    """One patient's heart."""

    shape: Shape
    septum_rad: float
    """Direction from the LV to the middle of the RV; pi is the image's left, less is lower."""
    lean: tuple[float, float]
    """Drift of the long axis (to the right, down) per mm towards the apex."""
    roundness: tuple[float, float, float, float]
    """Amplitude and phase of the second and of the third harmonic of the LV's outline."""
    rv_opening_rad: float
    """Half the angle around the LV that the RV spans."""
    rv_base_mm: float
    """Position of the RV's base below the LV's base; negative is above."""
    rv_reach: float
    """Position of the RV's end, as a fraction of the LV's length."""
    scar_rad: float
    """Angle from the middle of the septum to the middle of the infarcted sector."""
    scar_half_rad: float
    """Half the angle of the infarcted sector."""
    papillary: tuple[tuple[float, float], tuple[float, float]]
    """For each papillary muscle its angle from the septum, and its radius over the cavity's."""
    trabeculae: Field
    fat: Field
    """Texture of the fat around the heart."""

    @property
    def epi_mm(self) -> float:
        """Largest outer radius of the LV's wall."""
        return self.shape.radius_mm + self.shape.wall_mm


def draw_heart(rng: np.random.Generator, disease: str) -> Heart:
    """Draw a patient's heart with the named disease (a key of ``DISEASES``)."""
    typical = DISEASES[disease]

    def vary(value: float, spread: float) -> float:
        return value * (1 + spread * float(rng.uniform(-1, 1)))

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    shape = replace(
        typical,
        radius_mm=vary(typical.radius_mm, 0.10),
        length_mm=vary(typical.length_mm, 0.08),
        wall_mm=vary(typical.wall_mm, 0.13),
        rv_width_mm=vary(typical.rv_width_mm, 0.13),
        squeeze=min(vary(typical.squeeze, 0.06), 0.97),
        shortening=min(vary(typical.shortening, 0.03), 0.98),
        rv_squeeze=min(vary(typical.rv_squeeze, 0.06), 0.95),
        septal_bulge=vary(typical.septal_bulge, 0.3),
        septal_flattening=vary(typical.septal_flattening, 0.3),
    )
    return Heart(
        shape=shape,
        septum_rad=np.pi + np.radians(-18.0 + between(-25, 25)),
        lean=(between(-0.12, 0.05), between(0, 0.15)),
        roundness=(between(0, 0.06), between(0, 6.3), between(0, 0.025), between(0, 6.3)),
        rv_opening_rad=between(1.15, 1.3),
        rv_base_mm=between(-11, 4),
        rv_reach=between(0.72, 0.86),
        scar_rad=between(1.3, 5.0),  # the septum's middle would show no bulge beside the RV
        scar_half_rad=between(0.6, 1.0),
        papillary=(
            (between(1.6, 2.3), between(0.13, 0.24)),
            (between(-2.3, -1.6), between(0.13, 0.24)),
        ),
        trabeculae=draw_field(rng, 7),
        fat=draw_field(rng, 40),
    )
