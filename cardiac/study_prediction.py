"""Segment, measure and draw one study, for ``predict``."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cardiac.clinical import NOT_MEASURED, ed_es_frames, heart_function, volumes_ml
from cardiac.measurements import CaseRow, FrameRow
from cardiac.pictures import save_animation, save_png
from cardiac.segmentation import Scan, read_scan, segment
from cardiac.studies import LABEL_SUFFIX, Item, Study, stem
from cardiac.study_pictures import Moment, beat_frames, overlay_sheet
from common.errors import UserError
from common.labels import NUM_CLASSES


@dataclass(frozen=True)
class How:
    """The arguments of :func:`segment` and :func:`read_scan` that all files share."""

    model: torch.nn.Module
    spacing_mm: float
    device: torch.device
    largest: bool
    any_spacing: bool
    axes: str


@dataclass(frozen=True)
class Segmented:
    """One file with its labels."""

    item: Item
    scan: Scan
    labels: np.ndarray
    """(i, j, k, t) uint8, canonical."""
    ml: Sequence[Mapping[str, float]]
    """The volumes of each frame."""
    phases: Mapping[int, str]
    """``ED`` and ``ES`` by the index of their frame, as far as known."""

    @property
    def is_cine(self) -> bool:
        """Whether the file has more than one frame."""
        return self.scan.frames > 1


def segment_item(item: Item, how: How, advance: Callable[[], None]) -> Segmented:
    """Read, segment and measure one file.

    Raises
    ------
    UserError
        :func:`read_scan` refuses the file, or it holds labels.
    """
    if stem(item.path).endswith(LABEL_SUFFIX):
        raise UserError(f"{item.path}: has the name of a label map, expected an image")
    scan = read_scan(item.path, any_spacing=how.any_spacing, axes=how.axes)
    if np.isin(scan.data, np.arange(NUM_CLASSES)).all():
        values = ", ".join(map(str, range(NUM_CLASSES)))
        text = f"every value is one of {values} as in a label map, expected an image"
        raise UserError(f"{item.path}: {text}")
    labels = segment(
        how.model, scan, how.spacing_mm, how.device, largest=how.largest, advance=advance
    )
    ml = [volumes_ml(labels[..., frame], scan.spacing_mm) for frame in range(scan.frames)]
    return Segmented(item, scan, labels, ml, _phases(item, [volumes["LV"] for volumes in ml]))


def _phases(item: Item, lv_ml: Sequence[float]) -> dict[int, str]:
    if len(lv_ml) == 1:
        return {0: item.phase} if item.phase else {}
    found = ed_es_frames(lv_ml)
    return {} if found is None else dict(zip(found, ("ED", "ES"), strict=True))


def frame_rows(study: Study, files: Sequence[Segmented]) -> list[FrameRow]:
    """Return a study's rows of ``volumes.csv``."""
    return [
        FrameRow(study.name, file.item.path, frame + 1, file.phases.get(frame, ""), ml)
        for file in files
        for frame, ml in enumerate(file.ml)
    ]


def case_row(study: Study, files: Sequence[Segmented]) -> CaseRow:
    """Return a study's row of ``function.csv``, from its frames ED and ES."""
    known = [(file, frame, phase) for file in files for frame, phase in file.phases.items()]
    ml = {phase: file.ml[frame] for file, frame, phase in known}
    number = {phase: frame + 1 for file, frame, phase in known if file.is_cine}
    function = heart_function(ml.get("ED", NOT_MEASURED), ml.get("ES", NOT_MEASURED))
    return CaseRow(study.name, number.get("ED"), number.get("ES"), function, _no_ef(files, ml))


def _no_ef(files: Sequence[Segmented], ml: Mapping[str, Mapping[str, float]]) -> str:
    """Return why an ejection fraction is missing; empty where both ventricles have one."""
    needs = "EF needs ED and ES"
    if not ml:
        cine = any(file.is_cine for file in files)
        one = "one frame that is not known to be either"
        return f"{needs}; found {'no two frames whose LV differs in volume' if cine else one}"
    if len(ml) == 1:
        return f"{needs}; found {next(iter(ml))} only"
    unseen = [
        f"no {side} in {phase}"
        for side in ("LV", "RV")
        for phase in ("ED", "ES")
        if math.isnan(ml[phase][side])
    ]
    return f"EF needs the ventricle in ED and ES; found {' and '.join(unseen)}" if unseen else ""


def draw(study: Study, files: Sequence[Segmented], out: Path) -> None:
    """Write a picture of all slices at ED and ES, and for each cine an animation of three slices.

    Where neither ED nor ES is known, the first frame is drawn instead.
    """
    moments = [
        Moment(phase, file.scan, file.labels, frame)
        for file in files
        for frame, phase in (file.phases or {0: ""}).items()
    ]
    moments.sort(key=lambda moment: moment.name)
    save_png(overlay_sheet(moments), out / f"{study.name}_overlay.png")
    for file in files:
        if file.is_cine:
            ed = next(iter(file.phases), 0)
            save_animation(
                beat_frames(file.scan, file.labels, ed), out / f"{file.item.name}_beat.png"
            )
