"""Where each public data set keeps its cases, and what its label values mean.

case   a case, and the label values
table  the csv of a data set
acdc   ACDC
mnms   M&Ms as published
mnms2  M&Ms-2
sites  which cases belong to which site
"""

from dataclasses import replace
from pathlib import Path

from cardiac.datasets.acdc import list_acdc, patient_folders
from cardiac.datasets.case import ACDC_LABELS, FRAMES, MNMS_LABELS, Case
from cardiac.datasets.mnms import check_frames, find_index, list_mnms
from cardiac.datasets.mnms2 import is_mnms2, list_mnms2
from cardiac.datasets.sites import VENDOR_NAMES, group_by_site, site_name
from common.errors import UserError

__all__ = [
    "ACDC_LABELS",
    "FRAMES",
    "MNMS_LABELS",
    "VENDOR_NAMES",
    "Case",
    "group_by_site",
    "is_mnms2",
    "read_cases",
    "site_name",
]


def read_cases(data_dir: Path, axes: str = "LPS") -> list[Case]:
    """List the cases of a data folder, ED and ES of every patient, sorted by patient.

    Parameters
    ----------
    data_dir
        A folder in ACDC's, M&Ms's or M&Ms-2's layout; which one is seen from what it holds.
    axes
        Of the files' affines, see :class:`Case`.

    Raises
    ------
    UserError
        The folder is missing or of no such layout, a file that it should hold is not there, or
        the index of M&Ms does not fit the files.
    """
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such data folder")
    mnms_index = None
    if is_mnms2(data_dir):
        cases = list_mnms2(data_dir)
    elif mnms_index := find_index(data_dir):
        cases = list_mnms(mnms_index)
    elif patient_folders(data_dir):
        cases = list_acdc(data_dir)
    else:
        raise UserError(
            f"{data_dir}: neither M&Ms-2 (dataset_information.csv), M&Ms "
            "(…M&Ms…information….csv) nor ACDC (training/patientNNN/) is found here"
        )
    if not cases:
        raise UserError(f"{data_dir}: holds no patient")
    for case in cases:
        for path in (case.image, case.label):
            if not path.is_file():
                raise UserError(f"{path}: missing; patient {case.patient} needs it ({case.frame})")
    if mnms_index:
        check_frames(cases, mnms_index)
    cases = sorted(cases, key=lambda case: (case.patient, case.frame))
    return [replace(case, axes=axes) for case in cases]
