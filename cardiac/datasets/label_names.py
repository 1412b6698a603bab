"""Map labels that a data set names, as nnU-Net does, onto the canonical labels."""

import re
from collections.abc import Mapping
from pathlib import Path

from cardiac.faults import Fault, FaultError
from common.labels import BACKGROUND, STRUCTURES

NAMES = {
    "LV": (
        *("lv", "lvc", "lvbp", "lv cavity", "lv blood pool", "left ventricle"),
        *("left ventricle cavity", "left ventricular cavity", "left ventricular blood pool"),
    ),
    "MYO": (
        *("myo", "lvm", "mlv", "lv myo", "lvmyo", "myocardium", "lv myocardium"),
        *("left ventricle myocardium", "left ventricular myocardium"),
    ),
    "RV": (
        *("rv", "rvc", "rvbp", "rv cavity", "rv blood pool", "right ventricle"),
        *("right ventricle cavity", "right ventricular cavity", "right ventricular blood pool"),
    ),
}
"""Usual names of each structure, in lower case and with spaces between words."""
MOST = 2**16 - 1
"""Highest value of a label file; a higher one is a slip, and decoded files hold it inexactly."""
MEANING = {
    name: label for label, structure in enumerate(STRUCTURES, 1) for name in NAMES[structure]
}


def map_labels(named: Mapping[str, object], path: Path) -> dict[int, int]:
    """Return the canonical label of each value in the label files.

    Parameters
    ----------
    named
        Value of each structure by one of its usual names, in upper or lower case; background is
        0 and need not be named.
    path
        The file with these names, for messages.

    Raises
    ------
    FaultError
        A name is unknown, a structure is missing or named twice, or a value is not a whole number
        from 1 to ``MOST`` or stands for two structures. The message lists all that is wrong.
    """
    label_map = {0: BACKGROUND}
    wrong = []
    unknown = []
    for name, value in named.items():
        plain = re.sub(r"[\s_-]+", " ", name.strip().casefold())
        background = plain == "background"
        if not (background or plain in MEANING):
            unknown.append(name)
        elif isinstance(value, list):
            wrong.append(f"{name} is a region of several labels {value}, expected one number each")
        elif type(value) is not int or not (value == 0 if background else 0 < value <= MOST):
            expected = 0 if background else f"a whole number from 1 to {MOST}"
            wrong.append(f"{name} is {value!r}, expected {expected}")
        elif not background and (value in label_map or MEANING[plain] in label_map.values()):
            wrong.append(f"{name} is {value}, expected one number and one name for a structure")
        elif not background:
            label_map[value] = MEANING[plain]
    if unknown:
        usual = "; ".join(", ".join(names[:6]) for names in NAMES.values())
        wrong.append(
            f"unknown names {', '.join(unknown)}, expected background and, of each, {usual}"
        )
    missing = [name for label, name in enumerate(STRUCTURES, 1) if label not in label_map.values()]
    if missing and not wrong:
        wrong.append(f"found {', '.join(named) or 'none'}, expected {', '.join(missing)} too")
    if wrong:
        raise FaultError(Fault("label-names", f"labels: {'; '.join(wrong)}", path=path))
    return label_map
