"""Read M&Ms-2 in its official layout.

``dataset_information.csv`` + ``dataset/NNN/NNN_SA_{ED,ES}[_gt].nii.gz``. Labels 1 LV, 2 MYO, 3 RV.
Martín-Isla et al., IEEE JBHI 2023.
"""

from collections.abc import Iterator
from pathlib import Path

from cardiac.datasets.case import FRAMES, MNMS_LABELS, Case, Columns, note_extra
from cardiac.datasets.table import Row, read_table
from cardiac.faults import Fault

INDEX = "dataset_information.csv"
CODE = "SUBJECT_CODE"
FILES = r"{patient}_(SA|LA)_(ED|ES|CINE)(_gt)?\.nii\.gz"
"""Names of the published files, which include long-axis views and whole cines."""


def is_mnms2(data_dir: Path) -> bool:
    """Return whether a folder has the index or the subfolder of the M&Ms-2 layout."""
    return (data_dir / INDEX).is_file() or (data_dir / "dataset").is_dir()


def read_mnms2(data_dir: Path) -> Iterator[Case | Fault]:
    """Yield the cases of the index, whether or not their files exist, and faults.

    Without an index, each folder is a patient.
    """
    index = data_dir / INDEX
    folders = {path.name: path for path in sorted((data_dir / "dataset").glob("*/"))}
    rows, faults = read_table(index, [CODE], lambda info: info[CODE].zfill(3))
    yield from faults
    if rows is None:
        rows = {name: Row("", Columns({})) for name in folders}
    for patient, row in rows.items():
        if patient not in folders:
            near = [name for name in folders if name.lstrip("0") == patient.lstrip("0")]
            hint = f"; found dataset/{near[0]}" if near else ""
            text = f"{row.where}: expected a folder dataset/{patient}{hint}"
            yield Fault("folder-missing", text, patient, index)
            continue
        for frame in FRAMES:
            stem = f"{patient}_SA_{frame}"
            image, label = (folders[patient] / f"{stem}{end}.nii.gz" for end in ("", "_gt"))
            yield Case(patient, frame, image, label, MNMS_LABELS, row.info)
        yield from note_extra(folders[patient], FILES)
    for name in sorted(set(folders) - set(rows)):
        text = f"no row for the folder dataset/{name}, so it takes no part"
        yield Fault("folder-unlisted", text, name, index)
