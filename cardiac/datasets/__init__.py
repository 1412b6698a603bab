"""Find the cases of a data folder in any of the supported layouts.

case         one case, and the label values of the published data sets
table        read the csv of a data set
acdc         ACDC
mnms         M&Ms as published
mnms2        M&Ms-2
nnunet       nnU-Net's raw layout
described    any folder that dataset.toml describes
label_names  canonical labels by their usual names
sites        divide cases into sites
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cardiac.datasets.acdc import patient_folders, read_acdc
from cardiac.datasets.case import ACDC_LABELS, FRAMES, MNMS_LABELS, Case, check_files
from cardiac.datasets.described import is_described, is_nnunet, read_described
from cardiac.datasets.mnms import indices, read_mnms
from cardiac.datasets.mnms2 import is_mnms2, read_mnms2
from cardiac.datasets.sites import VENDOR_NAMES, group_by_site, site_name
from cardiac.faults import NAMED, Fault, FaultError, not_text, raise_first
from common.errors import UserError

__all__ = [
    "ACDC_LABELS",
    "FRAMES",
    "MNMS_LABELS",
    "VENDOR_NAMES",
    "Case",
    "group_by_site",
    "list_cases",
    "read_cases",
    "site_name",
]

Reader = Callable[[Path], Iterator[Case | Fault]]


@dataclass
class Listing:
    """The cases of a folder."""

    layout: str
    """Name of the layout, for people."""
    cases: list[Case]
    """All cases, sorted by patient and frame."""
    faults: list[Fault]
    """All that is wrong with the folder's index."""


def list_cases(data_dir: Path, axes: str = "LPS") -> Listing:
    """List the cases of a data folder and collect the faults of its index.

    The cases' files may be missing, see :func:`read_cases`.

    Parameters
    ----------
    data_dir
        A folder in the layout of ACDC, M&Ms, M&Ms-2 or nnU-Net, or one that ``dataset.toml``
        describes. Its content tells which.
    axes
        Axes of the files' affines, see :class:`Case`. ``dataset.toml`` overrides it.

    Raises
    ------
    UserError
        The folder is missing, has another layout, or holds no patient.
    """
    layout, read = _layout(data_dir)
    cases: dict[tuple[str, str], Case] = {}
    faults: list[Fault] = []
    try:
        for found in read(data_dir):
            if isinstance(found, Fault):
                faults.append(found)
            elif doubt := not_text(found.name):
                faults.append(Fault("case-name", f"the name of a case is {doubt}", path=data_dir))
            elif cases.setdefault((found.patient, found.frame), found) is not found:
                text = f"listed twice, with {found.image.name} too, expected each frame once"
                faults.append(
                    Fault("subject-twice", f"{found.name}: {text}", found.patient, data_dir)
                )
    except FaultError as error:  # the reader could not go on
        faults.append(error.fault)
    if not cases and all(fault.severity != "error" for fault in faults):
        why = "".join(f"; {fault.message}" for fault in faults[:NAMED])
        raise UserError(f"{data_dir}: holds no patient{why}")
    listed = [cases[key] for key in sorted(cases)]
    if read is not read_described:
        listed = [replace(case, axes=axes) for case in listed]
    return Listing(layout, listed, faults)


def read_cases(data_dir: Path, axes: str = "LPS") -> list[Case]:
    """Return the cases of a data folder as :func:`list_cases` does, but stop at the first error.

    Raises
    ------
    UserError
        As :func:`list_cases`; or the index has an error, or a file is missing or lacks the frame
        that the index names.
    """
    listing = list_cases(data_dir, axes)
    raise_first(listing.faults)
    for case in listing.cases:
        check_files(case)
    return listing.cases


def _layout(data_dir: Path) -> tuple[str, Reader]:
    """Return the name of a folder's layout and its reader."""
    if not data_dir.is_dir():
        raise UserError(f"{data_dir}: no such data folder")
    if is_described(data_dir):
        return "nnU-Net" if is_nnunet(data_dir) else "csv", read_described
    fitting: list[tuple[str, Reader]] = [
        (name, read)
        for name, fits, read in (
            ("M&Ms-2", is_mnms2, read_mnms2),
            ("M&Ms", indices, read_mnms),
            ("ACDC", patient_folders, read_acdc),
        )
        if fits(data_dir)
    ]
    if len(fitting) > 1:
        names = " and ".join(name for name, _ in fitting)
        raise UserError(f"{data_dir}: found files of {names}, expected one layout in a folder")
    if fitting:
        return fitting[0]
    raise UserError(
        f"{data_dir}: neither M&Ms-2 (dataset_information.csv), M&Ms "
        "(…M&Ms…information….csv), ACDC (training/patientNNN/), nnU-Net (dataset.json) nor a "
        "description (dataset.toml) is found here"
    )
