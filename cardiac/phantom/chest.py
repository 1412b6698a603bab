"""Make the chest around the heart: its wall, lung, diaphragm, liver, aorta and spine.

Much of it is as bright as blood or as dark as muscle, so that brightness alone does not show where
the heart is.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cardiac.phantom.beat import Grid
from cardiac.phantom.heart import Heart
from cardiac.phantom.shapes import Array, Field, Layer, Tissue, cover, draw_field

MUSCLE_MM = 9.0
"""Thickness of the chest's muscle."""


@dataclass(frozen=True)
class Chest:
    """One patient's chest, in mm from the LV's axis: x to the image's right, y down."""

    half_mm: tuple[float, float]
    """Half width and half height of the body."""
    middle_mm: tuple[float, float]
    """Centre of the body in the slice at the LV's base."""
    turn_rad: float
    """Turn of the body in the image."""
    slope: float
    """Shift of the body to the right per mm towards the apex."""
    fat_mm: float
    """Thickness of the fat under the skin."""
    diaphragm_mm: float
    """Distance of the diaphragm below the LV's axis, at the LV's base."""
    diaphragm_rise: float
    """Rise of the diaphragm per mm towards the apex."""
    diaphragm_tilt: float
    """Fall of the diaphragm per mm to the right."""
    diaphragm_dome: float
    """Fall of the diaphragm per squared mm from the LV's axis, in 1/mm."""
    liver_edge_mm: float
    """Position along x where the liver ends and the stomach begins."""
    aorta_mm: tuple[float, float, float]
    """Centre (x, y) and radius, as of spine and stomach."""
    spine_mm: tuple[float, float, float]
    stomach_mm: tuple[float, float, float]
    outline: Field
    organs: Field
    lung_vessels: Field
    liver_vessels: Field


def draw_chest(rng: np.random.Generator, heart: Heart) -> Chest:
    """Draw a chest that fits around the heart."""

    def between(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    half = between(118, 135), between(130, 150)
    fat = between(10, 24)
    reach = heart.epi_mm + heart.shape.rv_width_mm
    left = reach * -np.cos(heart.septum_rad) + between(4, 10) + MUSCLE_MM + fat
    aorta = between(48, 62), between(28, 46)
    return Chest(
        half_mm=half,
        middle_mm=(half[0] - float(left), between(5, 25)),
        turn_rad=between(-0.25, 0.25),
        slope=between(0.2, 0.45),
        fat_mm=fat,
        diaphragm_mm=heart.epi_mm + between(-2, 6),
        diaphragm_rise=between(0.2, 0.5),
        diaphragm_tilt=between(-0.1, 0.3),
        diaphragm_dome=between(0.001, 0.004),
        liver_edge_mm=between(-10, 35),
        aorta_mm=(*aorta, between(9, 12.5)),
        spine_mm=(aorta[0] + between(24, 32), aorta[1] + between(-8, 8), between(15, 19)),
        stomach_mm=(between(25, 50), heart.epi_mm + between(30, 45), between(14, 22)),
        outline=draw_field(rng, 70),
        organs=draw_field(rng, 45),
        lung_vessels=draw_field(rng, 8),
        liver_vessels=draw_field(rng, 16),
    )


def chest_layers(chest: Chest, grid: Grid) -> Iterator[Layer]:
    """Yield the tissues around the heart, from the skin inwards."""
    x, y, s = grid.x, grid.y, grid.s
    edge = grid.pixel_mm
    wavy = chest.outline(x, y, s)

    # Depth under the skin, from an ellipse's implicit equation
    right, down = x - chest.middle_mm[0] - chest.slope * s, y - chest.middle_mm[1]
    cos, sin = np.float32(np.cos(chest.turn_rad)), np.float32(np.sin(chest.turn_rad))
    from_middle = np.hypot(
        (cos * right + sin * down) / chest.half_mm[0], (cos * down - sin * right) / chest.half_mm[1]
    )
    skin = (1 - from_middle) * min(chest.half_mm) + 5 * wavy
    muscle = skin - chest.fat_mm - 3 * chest.organs(x, y, s) - 0.15 * np.maximum(s, 0)
    yield Tissue.FAT, cover(skin, edge)
    yield Tissue.MYOCARDIUM, cover(muscle, edge)
    ribs = cover(2.5 - np.abs(muscle - 5), edge) * cover(np.sin((y + 0.8 * s) / 4) - 0.3, 1.0)
    yield Tissue.FAT, 0.5 * ribs

    inside = muscle - MUSCLE_MM
    yield Tissue.LUNG, cover(inside, edge)
    yield Tissue.BLOOD, 0.9 * cover(chest.lung_vessels(x, y, s) - 2.4, 0.6) * cover(inside, edge)

    diaphragm = chest.diaphragm_mm - chest.diaphragm_rise * s + chest.diaphragm_tilt * x
    belly = np.minimum(y - diaphragm - chest.diaphragm_dome * x**2 + 4 * wavy, inside)
    yield Tissue.FAT, cover(belly, edge)
    yield from _organs(chest, grid, belly - 2.5)

    for middle_x, middle_y, radius, tissue in (
        (*chest.spine_mm, Tissue.LIVER),
        (*chest.aorta_mm, Tissue.BLOOD),
    ):
        depth = radius - np.hypot(x - middle_x, y - middle_y - 0.1 * s)
        yield Tissue.MYOCARDIUM, cover(depth + 1.5, edge)
        yield tissue, cover(depth, edge)


def _organs(chest: Chest, grid: Grid, belly: Array) -> Iterator[Layer]:
    """Yield liver on the left, stomach and fat on the right, below the diaphragm."""
    x, y, s = grid.x, grid.y, grid.s
    patches = chest.organs(x, y, s)
    liver = np.minimum(belly, chest.liver_edge_mm - x + 6 * patches)
    yield Tissue.LIVER, cover(liver, grid.pixel_mm)
    vessels = cover(chest.liver_vessels(x, y, s) - 2.0, 0.6)
    yield Tissue.BLOOD, 0.8 * vessels * cover(liver - 4, grid.pixel_mm)
    others = np.minimum(belly, x - chest.liver_edge_mm - 6 * patches - 3)
    yield Tissue.LIVER, cover(np.minimum(others, 12 * (np.abs(patches) - 0.3)), grid.pixel_mm)
    middle_x, middle_y, radius = chest.stomach_mm
    stomach = np.minimum(belly, radius - np.hypot(x - middle_x, 1.2 * (y - middle_y)) + 3 * patches)
    yield Tissue.MYOCARDIUM, cover(stomach, grid.pixel_mm)
    yield Tissue.FAT, 0.7 * cover(stomach - 4, grid.pixel_mm)
