"""ACDC in its official layout.

``training/patientNNN/patientNNN_frameXX[_gt].nii.gz`` + ``Info.cfg``. Labels 1 RV, 2 MYO, 3 LV.
Bernard et al., IEEE TMI 2018.
"""

from pathlib import Path

from cardiac.datasets.case import ACDC_LABELS, FRAMES, Case
from common.errors import UserError


def patient_folders(data_dir: Path) -> list[Path]:
    """Return the patients' folders, of the data folder or of its ``training``, sorted."""
    return sorted((data_dir / "training").glob("patient*")) or sorted(data_dir.glob("patient*"))


def list_acdc(data_dir: Path) -> list[Case]:
    """List the cases that ``Info.cfg`` names, with or without their files."""
    return [case for folder in patient_folders(data_dir) for case in _list_patient(folder)]


def _list_patient(folder: Path) -> list[Case]:
    info_path = folder / "Info.cfg"
    try:
        lines = info_path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        raise UserError(f"{info_path}: missing; it names the ED and ES frames") from None
    fields = (line.partition(":") for line in lines)
    info = {key.strip(): value.strip() for key, colon, value in fields if colon}
    cases = []
    for frame in FRAMES:
        if not info.get(frame, "").isdigit():
            raise UserError(f"{info_path}: {frame} is {info.get(frame)!r}, expected a frame number")
        stem = f"{folder.name}_frame{int(info[frame]):02d}"
        image, label = folder / f"{stem}.nii.gz", folder / f"{stem}_gt.nii.gz"
        cases.append(Case(folder.name, frame, image, label, ACDC_LABELS, info))
    return cases
