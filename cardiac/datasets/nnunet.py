"""Read nnU-Net's raw layout, for images of one channel.

``dataset.json`` (``labels`` by name, ``channel_names``, ``file_ending``) +
``imagesTr/NAME_0000.nii.gz`` + ``labelsTr/NAME.nii.gz``. Isensee et al., Nature Methods 2021.
It tells neither a case's patient nor the axes of the affines: ``dataset.toml`` beside it does.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cardiac.datasets.label_names import map_labels
from cardiac.faults import Fault, FaultError, some

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
        found = (self.data_dir / IMAGES).glob(f"*{end}")
        return sorted(p.name[: -len(end)] for p in found if not p.name.startswith("."))

    def extra(self) -> Iterator[Fault]:
        """Yield a fault where there are labels without an image."""
        images = {self.label(name).name for name in self.names()}
        found = sorted(path.name for path in (self.data_dir / LABELS).glob(f"*{self.ending}"))
        if extra := [name for name in found if name not in images and not name.startswith(".")]:
            text = f"not used, as {IMAGES} has no image of it: {some(extra)}"
            yield Fault("file-extra", text, path=self.data_dir / LABELS)


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
        said: Any = json.loads(path.read_text(encoding="utf-8"))
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
    if labels and all(key.isdigit() for key in labels):  # as in nnU-Net's first version
        if len(set(map(str, labels.values()))) < len(labels):
            raise _wrong(path, "labels: a name stands for two numbers, expected one each")
        labels = {str(name): int(number) for number, name in labels.items()}
    return Raw(data_dir, ending, map_labels(labels, path))


def _wrong(path: Path, message: str) -> FaultError:
    return FaultError(Fault("description-key", message, path=path))
