"""Find the images to segment, group them into studies of one beat, and name them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from cardiac.datasets.case import NUMBER
from common.errors import UserError

SUFFIXES = (".nii.gz", ".nii")
LABEL_SUFFIX = "_gt"
"""Ending of a label map's name in the public data sets."""
NOT_SHORT_AXIS_IMAGES = re.compile(r"^\.|_gt$|_seg$|_LA_(ED|ES|CINE)$")
"""Names that a folder's search leaves out: hidden files, labels (also those that ``predict``
writes) and M&Ms-2's long axis."""
MNMS_PHASE = re.compile(r"(?P<beat>.+)_(?P<phase>ED|ES)")
ACDC_FRAME = re.compile(r"(?P<beat>.+)_frame(?P<number>\d+)")
ACDC_INFO = re.compile(rf"^(ED|ES):\s*({NUMBER})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """One image to segment."""

    path: Path
    name: str
    """Unique name, with which the names of its output files begin."""
    phase: str
    """``ED`` or ``ES`` where the data set says so, otherwise empty."""


@dataclass(frozen=True)
class Study:
    """The images of one beat: a cine, a single frame, or a pair of frames ED and ES."""

    name: str
    items: tuple[Item, ...]


def find_studies(given: Sequence[Path]) -> list[Study]:
    """Return the studies of the given NIfTI files and of all files below the given folders.

    Raises
    ------
    UserError
        A path does not exist, a file's name does not end as NIfTI's do, or a folder holds none.
    """
    paths = _distinct(path for start in given for path in _images(start))
    names = unique_names([(*path.parent.parts[1:], stem(path)) for path in paths])
    beats: dict[tuple[Path, str], list[Item]] = {}
    for path, name in zip(paths, names, strict=True):
        beat, phase = _beat_and_phase(path)
        key = (path.parent / beat, "pair" if phase else path.name)
        if phase in (item.phase for item in beats.get(key, [])):
            key = (path.parent / beat, path.name)
        beats.setdefault(key, []).append(Item(path, name, phase))
    studies = unique_names([beat.parts[1:] for beat, _ in beats])
    return [Study(name, tuple(items)) for name, items in zip(studies, beats.values(), strict=True)]


def stem(path: Path) -> str:
    """Return a NIfTI file's name without its ending."""
    return next(path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s))


def unique_names(places: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a unique name for each place, which is a tuple of its folders and its own name.

    The name gets as many folders as tell it apart: ``(a, x)`` and ``(b, x)`` become ``a_x`` and
    ``b_x``. Names that no folder tells apart are numbered.
    """
    depths = [1] * len(places)
    while True:
        names = ["_".join(place[-n:]) for place, n in zip(places, depths, strict=True)]
        alike: dict[str, set[tuple[str, ...]]] = {}
        for name, place in zip(names, places, strict=True):
            alike.setdefault(name.lower(), set()).add(place)  # some systems ignore case
        longer = [
            i
            for i, name in enumerate(names)
            if len(alike[name.lower()]) > 1 and depths[i] < len(places[i])
        ]
        if not longer:
            return _numbered(names)
        for i in longer:
            depths[i] += 1


def _numbered(names: Iterable[str]) -> list[str]:
    taken: set[str] = set()
    result = []
    for name in names:
        choices = chain([name], (f"{name}_{number}" for number in count(2)))
        result.append(next(choice for choice in choices if choice.lower() not in taken))
        taken.add(result[-1].lower())
    return result


def _distinct(paths: Iterable[Path]) -> list[Path]:
    """Return each file once, with its folder resolved, though it may have been given twice."""
    return list(dict.fromkeys(path.parent.resolve() / path.name for path in paths))


def _images(start: Path) -> list[Path]:
    if start.is_dir():
        found = sorted(
            path
            for path in start.rglob("*")
            if path.name.lower().endswith(SUFFIXES)
            and path.is_file()
            and not NOT_SHORT_AXIS_IMAGES.search(stem(path))
        )
        if not found:
            raise UserError(f"{start}: holds no image, expected files .nii.gz or .nii")
        return found
    if not start.exists():
        raise UserError(f"{start}: no such file or folder")
    if not start.name.lower().endswith(SUFFIXES):
        raise UserError(f"{start}: found another ending, expected .nii.gz or .nii")
    return [start]


def _beat_and_phase(path: Path) -> tuple[str, str]:
    """Return the name of the beat that a file belongs to, and ``ED``, ``ES`` or nothing."""
    name = stem(path)
    if match := MNMS_PHASE.fullmatch(name):
        return match["beat"], match["phase"]
    if match := ACDC_FRAME.fullmatch(name):
        phase = _acdc_phases(path.with_name("Info.cfg")).get(int(match["number"]))
        if phase:
            return match["beat"], phase
    return name, ""


def _acdc_phases(info: Path) -> dict[int, str]:
    """Return ``ED`` and ``ES`` by the frame number in ACDC's ``Info.cfg``, where it exists."""
    try:
        text = info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    return {int(number): phase for phase, number in ACDC_INFO.findall(text)}
