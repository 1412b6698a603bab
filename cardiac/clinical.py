"""Volumes of the heart's structures, and what a beat's two extremes say of its function."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.labels import STRUCTURES

MYO_DENSITY_G_PER_ML = 1.05
"""Specific gravity of heart muscle, as cardiac MRI takes it to get a mass: Myerson et al.,
"Assessment of left ventricular mass by cardiovascular magnetic resonance", Hypertension 39, 2002.
"""


def volumes_ml(labels: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the volume of every structure in ml: its voxels, counted.

    Parameters
    ----------
    labels
        Canonical labels of one frame, three axes in any order.
    spacing_mm
        Along the three axes, slices counted from the middle of one to the next, so that gaps
        between them are counted as if they were filled.

    Returns
    -------
    dict
        By name (LV, MYO, RV). NaN for a structure that is not there: a segmentation that found
        none has measured nothing, and not 0 ml.
    """
    voxel_ml = math.prod(float(mm) for mm in spacing_mm) / 1000
    counts = (int(np.count_nonzero(labels == label)) for label in range(1, len(STRUCTURES) + 1))
    return {
        name: count * voxel_ml if count else math.nan
        for name, count in zip(STRUCTURES, counts, strict=True)
    }


def myo_mass_g(myo_ml: float) -> float:
    """Return the mass of a volume of myocardium."""
    return myo_ml * MYO_DENSITY_G_PER_ML


@dataclass(frozen=True)
class Function:
    """What one ventricle does in a beat; NaN where a volume is unknown.

    Attributes
    ----------
    edv_ml, esv_ml
        Volume of the cavity at end-diastole and at end-systole.
    """

    edv_ml: float
    esv_ml: float

    @property
    def stroke_volume_ml(self) -> float:
        """What the ventricle puts out: EDV - ESV."""
        return self.edv_ml - self.esv_ml

    @property
    def ejection_fraction_percent(self) -> float:
        """The share of the EDV that is put out."""
        return 100 * self.stroke_volume_ml / self.edv_ml if self.edv_ml else math.nan


@dataclass(frozen=True)
class HeartFunction:
    """Both ventricles' function, and the mass of the myocardium at end-diastole."""

    lv: Function
    rv: Function
    myo_g: float


NOT_MEASURED = dict.fromkeys(STRUCTURES, math.nan)
"""The volumes of a frame that there is not."""


def heart_function(ed_ml: Mapping[str, float], es_ml: Mapping[str, float]) -> HeartFunction:
    """Return the function that the volumes of two frames give, see :func:`volumes_ml`.

    The RV is measured at the LV's frames, as ACDC and M&Ms have it; its own extremes may lie a
    frame aside.
    """
    return HeartFunction(
        Function(ed_ml["LV"], es_ml["LV"]),
        Function(ed_ml["RV"], es_ml["RV"]),
        myo_mass_g(ed_ml["MYO"]),
    )


def ed_es_frames(lv_ml: Sequence[float]) -> tuple[int, int] | None:
    """Find a cine's end-diastole and end-systole.

    Parameters
    ----------
    lv_ml
        Volume of the LV's cavity in every frame, NaN where none was found.

    Returns
    -------
    tuple or None
        Indices of the frame with the largest and of that with the smallest LV, the earlier of
        equals; None where no two volumes differ.
    """
    known = np.asarray(lv_ml, float)
    if np.isnan(known).all() or np.nanmin(known) == np.nanmax(known):
        return None
    return int(np.nanargmax(known)), int(np.nanargmin(known))
