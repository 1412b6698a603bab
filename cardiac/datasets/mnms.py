"""Read M&Ms as published: whole cines of which two frames have labels.

``211230_M&Ms_Dataset_information_diagnosis_opendataset.csv`` + ``CODE/CODE_sa[_gt].nii.gz`` below
``Training/Labeled``, ``Validation`` and ``Testing``; ``Training/Unlabeled`` takes no part. Files
are 4-D (x, y, z, time); columns ED and ES count frames from 0. Labels 1 LV, 2 MYO, 3 RV.
Campello et al., IEEE TMI 2021.
"""

from collections.abc import Iterator
from pathlib import Path

from cardiac.datasets.case import FRAMES, MNMS_LABELS, Case, is_number
from cardiac.datasets.table import read_table
from cardiac.faults import Fault

INDEX = "*M&Ms*nformation*.csv"
"""Pattern of the index's name, which differs between releases."""
CODE = "External code"
IMAGE = "_sa.nii.gz"
UNLABELLED = "unlabeled"


def indices(data_dir: Path) -> list[Path]:
    """Return a folder's indices in the M&Ms layout; there should be one."""
    return sorted(path for path in data_dir.glob(INDEX) if not path.name.startswith("."))


def read_mnms(data_dir: Path) -> Iterator[Case | Fault]:
    """Yield the labelled cases of the index, whether or not their labels exist, and faults."""
    index, *others = indices(data_dir)
    if others:
        names = " and ".join(path.name for path in (index, *others))
        yield Fault("csv-several", f"found {names}, expected one index of M&Ms", path=data_dir)
    folders: dict[str, list[Path]] = {}
    for path in sorted(data_dir.rglob(f"*/*{IMAGE}")):
        if path.name == path.parent.name + IMAGE:
            folders.setdefault(path.parent.name, []).append(path.parent)
    rows, faults = read_table(index, (CODE, *FRAMES))
    yield from faults
    for patient, row in (rows or {}).items():
        found = folders.get(patient, [])
        labelled = [folder for folder in found if not _is_unlabelled(folder, data_dir)]
        if found and not labelled:
            continue
        if len(labelled) != 1:
            several = " and ".join(map(str, labelled))
            text = (
                f"{row.where}: {CODE}: found {several or 'no such file'}, expected one "
                f"{patient}/{patient}{IMAGE} below {data_dir}"
            )
            yield Fault("folder-several" if several else "folder-missing", text, patient, index)
            continue
        stem = labelled[0] / patient
        image, label = Path(f"{stem}_sa.nii.gz"), Path(f"{stem}_sa_gt.nii.gz")
        for frame in FRAMES:
            number = row.info[frame].removesuffix(".0")  # of a table that went through pandas
            if not is_number(number):
                text = f"{row.where}: {frame} is {row.info[frame]!r}, expected a frame number"
                yield Fault("info-frame", f"{text} from 0", patient, index)
                continue
            listed = f"{index}: {row.where}"
            yield Case(
                *(patient, frame, image, label, MNMS_LABELS, row.info),
                frame_index=int(number),
                listed=listed,
            )


def _is_unlabelled(folder: Path, data_dir: Path) -> bool:
    parts = folder.relative_to(data_dir).parts[:-1]
    return UNLABELLED in (part.lower() for part in parts)
