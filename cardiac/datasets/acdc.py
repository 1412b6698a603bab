"""Read ACDC in its official layout.

``training/patientNNN/patientNNN_frameXX[_gt].nii.gz`` + ``Info.cfg``. Labels 1 RV, 2 MYO, 3 LV.
Bernard et al., IEEE TMI 2018.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from cardiac.datasets.case import ACDC_LABELS, FRAMES, Case, is_number, note_extra
from cardiac.faults import Fault

OTHER_FILES = r"Info\.cfg|MANDATORY_CITATION\.md|{patient}_4d\.nii\.gz"
"""Names of files that the published data set holds and we do not use."""


def patient_folders(data_dir: Path) -> list[Path]:
    """Return the patients' folders in the folder's ``training`` or in itself, sorted."""
    return sorted((data_dir / "training").glob("patient*/")) or sorted(data_dir.glob("patient*/"))


def read_acdc(data_dir: Path) -> Iterator[Case | Fault]:
    """Yield the cases that each ``Info.cfg`` names, whether or not their files exist, and faults.

    Where ``Info.cfg`` does not name ED and ES, two labelled frames stand for them.
    """
    for folder in patient_folders(data_dir):
        yield from _read_patient(folder)


def _read_patient(folder: Path) -> Iterator[Case | Fault]:
    patient, path = folder.name, folder / "Info.cfg"
    info: dict[str, str] = {}
    frames = _labelled_frames(folder)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        yield Fault("info-missing", "missing; it names the ED and ES frames", patient, path)
    else:
        fields = (line.partition(":") for line in lines)
        info = {key.strip(): value.strip() for key, colon, value in fields if colon}
        for frame in FRAMES:
            if is_number(info.get(frame, "")):
                frames[frame] = int(info[frame])
            else:
                text = f"{frame} is {info.get(frame)!r}, expected a frame number"
                yield Fault("info-frame", text, patient, path)
        for code, text in _doubt_frames(info):
            yield Fault(code, text, patient, path)
    for frame, number in frames.items():
        stem = f"{patient}_frame{number:02d}"
        image, label = folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz"
        yield Case(patient, frame, image, label, ACDC_LABELS, info)
    numbers = "|".join(f"{number:02d}" for number in frames.values()) or "none"
    yield from note_extra(folder, rf"{OTHER_FILES}|{{patient}}_frame({numbers})(_gt)?\.nii\.gz")


def _doubt_frames(info: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    ed, es, last = (info.get(key, "") for key in (*FRAMES, "NbFrame"))
    if is_number(ed) and ed == es:
        yield "info-frame", f"ED and ES are both frame {ed}, expected two moments of a beat"
    for name, frame in zip(FRAMES, (ed, es), strict=True):
        if is_number(frame) and is_number(last) and int(frame) > int(last):
            yield "info-range", f"{name} is frame {frame} of {last} (NbFrame)"


def _labelled_frames(folder: Path) -> dict[str, int]:
    """Return the numbers of two labelled frames as ED and ES; nothing unless there are two."""
    names = (re.search(r"_frame(\d+)_gt\.nii\.gz$", path.name) for path in folder.glob("*_gt*"))
    numbers = sorted(int(name[1]) for name in names if name)
    return dict(zip(FRAMES, numbers, strict=True)) if len(numbers) == len(FRAMES) else {}
