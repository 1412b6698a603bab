"""Read nnU-Net's raw layout, for images of one channel.

``dataset.json`` (``labels`` by name, ``channel_names``, ``file_ending``) +
``imagesTr/NAME_0000.nii.gz`` + ``labelsTr/NAME.nii.gz``. Isensee et al., Nature Methods 2021.
It tells neither a case's patient nor the axes of the affines: ``dataset.toml`` beside it does.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac.datasets.case import is_number
from cardiac.datasets.label_names import map_labels
from cardiac.faults import Fault, FaultError, some
from common.files import parse_json

INDEX = "dataset.json"
IMAGES, LABELS = "imagesTr", "labelsTr"
CHANNEL = "_0000"
ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Raw:
    """What ``dataset.json`` says about the files of a folder."""

    data_dir: Path
    ending: str
    """Ending of all files' names."""
    label_map: dict[int, int]
    """Canonical label of each value in the label files."""

    def image(self, case: str) -> Path:
        """Return the path of a case's image."""
        return self.data_dir / IMAGES / f"{case}{CHANNEL}{self.ending}"

    def label(self, case: str) -> Path:
        """Return the path of a case's label."""
        return self.data_dir / LABELS / f"{case}{self.ending}"

    def names(self) -> list[str]:
        """Return the names of the cases that have an image, sorted."""
        end = f"{CHANNEL}{self.ending}"
        return [name[: -len(end)] for name in self._files(IMAGES) if name.endswith(end)]

    def extra(self) -> Iterator[Fault]:
        """Yield a fault where there is no image, and where a file is not of a case's image."""
        images, labels = self.data_dir / IMAGES, self.data_dir / LABELS
        known = {
            path.name for case in self.names() for path in (self.image(case), self.label(case))
        }
        if not known:
            text = f"no images, expected files NAME{CHANNEL}{self.ending}"
            yield Fault("file-missing", text, path=images)
        if extra := [name for name in self._files(IMAGES) if name not in known]:
            text = f"take no part, as they do not end in {CHANNEL}{self.ending}: {some(extra)}"
            yield Fault("case-unlisted", text, path=images)
        if extra := [name for name in self._files(LABELS) if name not in known]:
            text = f"not used, as {IMAGES} has no image of it: {some(extra)}"
            yield Fault("file-extra", text, path=labels)

    def _files(self, part: str) -> list[str]:
        """Return the names of the files in a subfolder that are not hidden, sorted."""
        found = (path.name for path in (self.data_dir / part).glob("*"))
        return sorted(name for name in found if not name.startswith("."))


def read_raw(data_dir: Path) -> Raw:
    """Read ``dataset.json``.

    Raises
    ------
    FaultError
        The file is no JSON, lacks a key, or describes images of several channels, other files
        than NIfTI, or labels other than LV, MYO and RV.
    """
    path = data_dir / INDEX
    try:
        text = path.read_text(encoding="utf-8-sig")
        said: Any = parse_json(text, object_pairs_hook=_each_once)
    except (OSError, ValueError) as error:
        raise _wrong(path, f"cannot be read as JSON ({error})") from None
    if not isinstance(said, dict) or not isinstance(said.get("labels"), dict):
        raise _wrong(path, "no labels, expected numbers by name, as LV, MYO and RV")
    channels = said.get("channel_names", said.get("modality"))
    if not isinstance(channels, dict) or len(channels) != 1:
        found = ", ".join(map(str, channels.values())) if isinstance(channels, dict) else channels
        raise _wrong(path, f"channel_names: found {found}, expected one channel: cine MRI")
    ending = said.get("file_ending", ENDINGS[0])
    if ending not in ENDINGS:
        raise _wrong(path, f"file_ending: found {ending!r}, expected {' or '.join(ENDINGS)}")
    labels = said["labels"]
    if labels and all(map(is_number, labels)):  # as in nnU-Net's first version
        if len(set(map(str, labels.values()))) < len(labels):
            raise _wrong(path, "labels: a name stands for two numbers, expected one each")
        labels = {str(name): int(number) for number, name in labels.items()}
    return Raw(data_dir, ending, map_labels(labels, path))


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a dict; ValueError where a name has two values."""
    said = dict(pairs)
    if len(said) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice, expected one value")
    return said


def _wrong(path: Path, message: str) -> FaultError:
    return FaultError(Fault("description-key", message, path=path))
