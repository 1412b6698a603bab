"""Place a heart's surfaces at one moment of its beat; make its label map and tissues."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cardiac.phantom.heart import Heart
from cardiac.phantom.shapes import Array, Layer, Tissue, cover
from common.labels import BACKGROUND, LV, MYO, RV

RV_WALL_MM = 3.0
BASE_EDGE = 0.4
"""Share of a slice's thickness over which the base fades; below 1, as the base is no plane."""
TRUNCATION = 0.25
"""Position of the LV's widest place, as a fraction of its length from the base."""
GREAT_VESSELS = ((-4.0, -14.0, 19.0), (10.0, 6.0, 13.0), (44.0, -18.0, 20.0), (26.0, 28.0, 12.0))
"""Left atrium, aortic root, right atrium and pulmonary artery above the ventricles, in mm from the
LV's axis: centre (towards the septum, across it clockwise in the image) and radius."""


@dataclass(frozen=True)
class Grid:
    """Positions of voxels, in mm from the LV's axis and its base in end-diastole."""

    x: Array
    """(w, 1, 1) to the image's right."""
    y: Array
    """(1, h, 1) down the image."""
    s: Array
    """(1, 1, z) towards the apex."""
    pixel_mm: float
    slice_mm: float


@dataclass(frozen=True)
class Beat:
    """Surfaces of the heart as radii in mm around the LV's axis; they broadcast to (w, h, z)."""

    radius: Array
    """Distance of each voxel from the LV's axis."""
    angle: Array
    """Angle of each voxel from the middle of the septum, -pi to pi, clockwise in the image."""
    endo: Array
    """Inside of the LV's wall."""
    epi: Array
    """Outside of the LV's wall."""
    rv: Array
    """Outside of the RV's cavity; equals ``epi`` where there is none."""
    lv_depth: Array
    """Depth of each slice below the LV's base, (1, 1, z)."""
    rv_depth: Array
    """Depth of each slice below the RV's base, (1, 1, z)."""
    slant: Array
    """In-plane shift of the LV's surfaces within one slice, (1, 1, z)."""


def beat(heart: Heart, phase: float, grid: Grid) -> Beat:
    """Return the heart's surfaces on a grid at a phase from 0, end-diastole, to 1, end-systole."""
    shape = heart.shape
    right = grid.x - heart.lean[0] * (grid.s - shape.length_mm / 2)
    down = grid.y - heart.lean[1] * (grid.s - shape.length_mm / 2)
    radius = np.hypot(right, down)
    turn = np.arctan2(down, right) - np.float32(heart.septum_rad - np.pi)
    angle = turn % np.float32(2 * np.pi) - np.float32(np.pi)

    # The apex stays where it is, the base comes down
    length = shape.length_mm * (1 - phase * (1 - shape.shortening))
    depth = grid.s - np.float32(shape.length_mm - length)
    along = depth / length
    size2, phase2, size3, phase3 = heart.roundness
    facing_rv = np.clip(np.cos(angle), 0, 1)
    outline = (
        1 + size2 * np.cos(2 * angle - phase2) + size3 * np.cos(3 * angle - phase3)
    ) - shape.septal_flattening * facing_rv**2
    scar = _scar(heart, angle, along)
    inner = shape.radius_mm * outline
    wall = shape.wall_mm * (1 + shape.septal_bulge * facing_rv) * (1 - 0.4 * scar)
    squeezed = inner * (1 - phase * (1 - shape.squeeze) * (1 - scar))
    # Muscle keeps its volume: what the wall loses in girth and length it gains in thickness
    outer = np.sqrt(squeezed**2 + ((inner + wall) ** 2 - inner**2) * (shape.length_mm / length))

    epi = outer * _profile(depth / (length + 0.8 * shape.wall_mm))
    rv_depth = depth - np.float32(heart.rv_base_mm)
    rv_along = np.clip(rv_depth / (heart.rv_reach * length - heart.rv_base_mm), 0, 1)
    width = shape.rv_width_mm * (1 - phase * (1 - shape.rv_squeeze)) * np.sqrt(1 - rv_along**1.7)
    across = np.clip(angle / (heart.rv_opening_rad * (1 - 0.3 * rv_along**2)), -1, 1)
    # The RV reaches up to the outflow tract at the base, down to the diaphragm further below
    lobe = (1 - np.abs(across) ** 2.4) ** 0.8 * (1 + (0.15 - 0.4 * rv_along) * across)
    half_slice = 0.5 * grid.slice_mm / length
    return Beat(
        radius=radius,
        angle=angle,
        endo=squeezed * _profile(along),
        epi=epi,
        rv=epi + np.where(width > RV_WALL_MM, width, 0) * lobe,
        lv_depth=depth,
        rv_depth=rv_depth,
        slant=shape.radius_mm * np.abs(_profile(along + half_slice) - _profile(along - half_slice)),
    )


def _profile(along: Array) -> Array:
    """Return the radius of a truncated ellipsoid over its largest, from base (0) to tip (1)."""
    from_widest = (along - TRUNCATION) / (1 - TRUNCATION)
    radius: Array = np.sqrt(np.clip(1 - from_widest**2, 0, 1))
    return radius


def _scar(heart: Heart, angle: Array, along: Array) -> Array:
    """Return the degree of infarction, 0 to 1: a sector of the wall from mid-height to apex."""
    if not heart.shape.scar:
        return np.zeros((1, 1, 1), np.float32)
    off = np.abs((angle - heart.scar_rad + np.pi) % (2 * np.pi) - np.pi)
    sector = np.clip((heart.scar_half_rad - off) / 0.4 + 0.5, 0, 1)
    scar: Array = heart.shape.scar * sector * np.clip((along - 0.15) / 0.2, 0, 1)
    return scar.astype(np.float32)


def label(at: Beat) -> npt.NDArray[np.uint8]:
    """Return the canonical label (w, h, z) of each voxel's centre."""
    lv_wall = (at.lv_depth >= 0) & (at.radius < at.epi)
    rv_cavity = (at.rv_depth >= 0) & (at.radius < at.rv) & (at.radius >= at.epi)
    labels = np.where(rv_cavity, RV, BACKGROUND)
    labels = np.where(lv_wall, np.where(at.radius < at.endo, LV, MYO), labels)
    return labels.astype(np.uint8)


def heart_layers(heart: Heart, at: Beat, grid: Grid) -> Iterator[Layer]:
    """Yield the heart's tissues, with the atria and great vessels above it."""
    x, y, s = grid.x, grid.y, grid.s
    edge = grid.pixel_mm + np.float32(0.7) * at.slant
    lv_share = cover(at.lv_depth, BASE_EDGE * grid.slice_mm)
    rv_share = cover(at.rv_depth, BASE_EDGE * grid.slice_mm)
    above = cover(-np.minimum(at.lv_depth, at.rv_depth), BASE_EDGE * grid.slice_mm)
    patches = heart.fat(x, y, s)
    vessels = _great_vessels(heart, grid)
    yield Tissue.FAT, above * cover(vessels + 4 + 3 * patches, grid.pixel_mm)
    yield Tissue.MYOCARDIUM, above * cover(vessels + 2, grid.pixel_mm)
    yield Tissue.BLOOD, above * cover(vessels, grid.pixel_mm)

    free_wall = np.float32(RV_WALL_MM) * (at.rv > at.epi + 0.5)
    # Thickest below and before the RV, thinnest towards the lung; none beyond the apex
    fat_mm = 1.5 + 5 * np.clip(np.cos(at.angle + 0.6), 0, 1) * np.clip(1 + 0.6 * patches, 0, 2)
    fat_mm = (fat_mm + free_wall) * np.clip(at.epi / 20, 0, 1)
    yield Tissue.FAT, np.maximum(lv_share, rv_share) * cover(at.rv + fat_mm - at.radius, edge)
    yield Tissue.MYOCARDIUM, rv_share * cover(at.rv + free_wall - at.radius, edge)
    cavity = rv_share * cover(at.rv - at.radius, edge)
    yield Tissue.BLOOD, cavity
    trabeculae = 0.8 * cover(heart.trabeculae(x, y, s) - 1.0, 1.2)
    yield Tissue.MYOCARDIUM, trabeculae * cover(at.radius - at.rv + 7, 10) * cavity

    # Where the RV begins higher than the LV, the left atrium takes the LV's place
    yield Tissue.MYOCARDIUM, rv_share * cover(at.epi - at.radius, edge)
    yield Tissue.BLOOD, rv_share * cover(at.epi - RV_WALL_MM - at.radius, edge)
    yield Tissue.MYOCARDIUM, lv_share * cover(at.epi - at.radius, edge)
    cavity = lv_share * cover(at.endo - at.radius, edge)
    yield Tissue.BLOOD, cavity
    rim = cover(at.radius - 0.8 * at.endo, 4.0)
    yield Tissue.MYOCARDIUM, trabeculae * rim * cavity
    yield Tissue.MYOCARDIUM, 0.9 * _papillary_muscles(heart, at, grid) * cavity


def _great_vessels(heart: Heart, grid: Grid) -> Array:
    """Return the depth of each point within an atrium or great vessel, (w, h, 1)."""
    cos, sin = np.cos(heart.septum_rad), np.sin(heart.septum_rad)
    scale = heart.epi_mm / 34
    depths = [
        scale * radius
        - np.hypot(
            grid.x - scale * (towards * cos - across * sin),
            grid.y - scale * (towards * sin + across * cos),
        )
        for towards, across, radius in GREAT_VESSELS
    ]
    deepest: Array = np.max(depths, axis=0).astype(np.float32)
    return deepest


def _papillary_muscles(heart: Heart, at: Beat, grid: Grid) -> Array:
    """Return the share of each voxel in one of the two papillary muscles, (w, h, z)."""
    along = at.lv_depth / heart.shape.length_mm
    present = np.clip(1 - ((along - 0.55) / 0.35) ** 4, 0, 1)
    ragged = 0.8 * heart.trabeculae(grid.x, grid.y, grid.s)
    share = np.zeros((1, 1, 1), np.float32)
    for angle, ratio in heart.papillary:
        size = ratio * heart.shape.radius_mm * present
        orbit = at.endo - size
        # Law of cosines: distance from the muscle's middle
        squared = at.radius**2 + orbit**2 - 2 * at.radius * orbit * np.cos(at.angle - angle)
        depth = size - np.sqrt(np.maximum(squared, 0)) + ragged * (size > 0)
        share = np.maximum(share, cover(depth, grid.pixel_mm))
    return share
