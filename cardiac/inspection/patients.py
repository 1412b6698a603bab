"""ED and ES of a patient against each other."""

from collections.abc import Iterator, Sequence

import numpy as np

from cardiac.datasets import FRAMES
from cardiac.faults import Fault
from cardiac.inspection.case import CaseReport
from cardiac.nifti import TOLERANCE, by


def check_patients(reports: Sequence[CaseReport]) -> list[Fault]:
    """Find what is wrong between ED and ES, for patients who have both."""
    frames: dict[str, dict[str, CaseReport]] = {}
    for report in reports:
        frames.setdefault(report.case.patient, {})[report.case.frame] = report
    return [
        Fault(code, text, patient)
        for patient, pair in frames.items()
        if set(FRAMES) <= set(pair)
        for code, text in _check_pair(pair["ED"], pair["ES"])
    ]


def _check_pair(ed: CaseReport, es: CaseReport) -> Iterator[tuple[str, str]]:
    if ed.shape and es.shape and ed.shape != es.shape:
        yield "frames-differ", f"ED has shape {ed.shape}, ES {es.shape}, expected one and the same"
    ed_mm, es_mm = ed.spacing_mm, es.spacing_mm
    if ed_mm is not None and es_mm is not None and not np.allclose(ed_mm, es_mm, rtol=TOLERANCE):
        yield (
            "frames-differ",
            f"ED has spacing {by(ed_mm)} mm, ES {by(es_mm)} mm, expected one and the same",
        )
    if ed.image_hashes and ed.image_hashes == es.image_hashes:
        yield "frames-same", "ED and ES are the same image, expected two moments of a beat"
    if ed.label_hash and ed.label_hash == es.label_hash:
        yield "labels-same", "ED and ES have the same label, expected two moments of a beat"
    if ed.volumes_ml and es.volumes_ml and es.volumes_ml["LV"] > ed.volumes_ml["LV"]:
        yield (
            "es-larger",
            f"LV has {ed.volumes_ml['LV']:.0f} ml in ED and {es.volumes_ml['LV']:.0f} ml in ES, "
            "expected less; are the frames exchanged?",
        )
