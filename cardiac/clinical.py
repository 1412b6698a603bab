"""Volumes of the heart's structures, and the heart's function from those at ED and ES."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.labels import STRUCTURES

MYO_DENSITY_G_PER_ML = 1.05
"""Specific gravity of heart muscle. Myerson et al., "Assessment of left ventricular mass by
cardiovascular magnetic resonance", Hypertension 39, 2002."""


def volumes_ml(labels: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the volume in ml of LV, MYO and RV by name: the number of voxels times their size.

    A structure that is not there has NaN, not 0 ml: where nothing was found, nothing was measured.

    Parameters
    ----------
    labels
        Canonical labels of one frame, three axes in any order.
    spacing_mm
        Spacing along these axes. Slices are counted from the middle of one to the middle of the
        next, so the gaps between them count as filled.
    """
    voxel_ml = math.prod(float(mm) for mm in spacing_mm) / 1000
    counts = (int(np.count_nonzero(labels == label)) for label in range(1, len(STRUCTURES) + 1))
    return {
        name: count * voxel_ml if count else math.nan
        for name, count in zip(STRUCTURES, counts, strict=True)
    }


def myo_mass_g(myo_ml: float) -> float:
    """Return the mass in g of a volume of myocardium in ml."""
    return myo_ml * MYO_DENSITY_G_PER_ML


@dataclass(frozen=True)
class Function:
    """The function of one ventricle; NaN where a volume is unknown."""

    edv_ml: float
    """Volume of the cavity at end-diastole."""
    esv_ml: float
    """Volume of the cavity at end-systole."""

    @property
    def stroke_volume_ml(self) -> float:
        """The volume that the ventricle ejects: EDV - ESV."""
        return self.edv_ml - self.esv_ml

    @property
    def ejection_fraction_percent(self) -> float:
        """The share of the EDV that is ejected."""
        return 100 * self.stroke_volume_ml / self.edv_ml if self.edv_ml else math.nan


@dataclass(frozen=True)
class HeartFunction:
    """The function of both ventricles."""

    lv: Function
    rv: Function
    myo_g: float
    """Mass of the myocardium at end-diastole."""


NOT_MEASURED = dict.fromkeys(STRUCTURES, math.nan)
"""Volumes of a frame that is missing: NaN for every structure."""


def heart_function(ed_ml: Mapping[str, float], es_ml: Mapping[str, float]) -> HeartFunction:
    """Return the function from the volumes of two frames, each as :func:`volumes_ml` returns them.

    ACDC and M&Ms choose both frames by the LV; the RV's own extremes may lie a frame aside.
    """
    return HeartFunction(
        Function(ed_ml["LV"], es_ml["LV"]),
        Function(ed_ml["RV"], es_ml["RV"]),
        myo_mass_g(ed_ml["MYO"]),
    )


def ed_es_frames(lv_ml: Sequence[float]) -> tuple[int, int] | None:
    """Return the indices of a cine's end-diastole and end-systole.

    They are the frames with the largest and the smallest of ``lv_ml``, which is the LV's volume in
    every frame or NaN; of equal ones the earlier. None is returned where no two volumes differ.
    """
    known = np.asarray(lv_ml, float)
    if np.isnan(known).all() or np.nanmin(known) == np.nanmax(known):
        return None
    return int(np.nanargmax(known)), int(np.nanargmin(known))
