"""Small files and configurations for the tests of a site."""

import csv
import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from cardiac.datasets import MNMS_LABELS, Case, read_cases
from cardiac.inspection.inspect import Inspection
from cardiac.preprocessing import Volume, load_frame
from cardiac.scoring import site_groups
from cardiac.splits import split_cases
from common.config import RunConfig
from common.errors import UserError
from common.labels import LV, MYO, RV
from common.options import Value

TINY: dict[str, Value] = {
    "features": "4,8,8,8,8,4",
    "spacing-mm": 4.0,
    "image-size": 32,
    "batch-size": 8,
    "device": "cpu",
    "augment": False,
    "pretrain-epochs": 3,
}


def tiny_config(folder: Path, changes: Mapping[str, Value] | None = None) -> RunConfig:
    """Return a configuration that a test can afford, with its cache in ``folder``."""
    return RunConfig.from_flat({**TINY, "cache-dir": str(folder), **(changes or {})})


def write_nifti(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """Write an array (i, j, k), by default 1.5 × 1.5 × 8 mm along the scanner's axes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([1.5, 1.5, 8.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def patch_header(path: Path, offset: int, content: bytes) -> None:
    """Overwrite bytes of a .nii.gz file's header; see the NIfTI-1 standard for the offsets."""
    plain = bytearray(gzip.decompress(path.read_bytes()))
    plain[offset : offset + len(content)] = content
    path.write_bytes(gzip.compress(bytes(plain)))


def heart_labels(size: int = 48, slices: int = 4) -> np.ndarray:
    """Return canonical labels (z, size, size): RV to the left, an LV in a ring of MYO."""
    row, column = np.mgrid[:size, :size] - size / 2
    radius = np.hypot(row, column - size / 10)
    labels = np.zeros((size, size), np.uint8)
    labels[np.hypot(row, column + size / 5) < size / 5] = RV
    labels[radius < size / 5] = MYO
    labels[radius < size / 8] = LV
    labels[:2] = 0
    return np.repeat(labels[None], slices, axis=0)


def heart_image(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return an image of the labels' shape whose brightness tells the structures apart."""
    brightness = np.array([20.0, 180.0, 70.0, 130.0])
    noise = np.random.default_rng(seed).normal(0, 4, labels.shape)
    bright: np.ndarray = brightness[labels.astype(int)] + noise
    return bright


def heart_volume(size: int = 48, slices: int = 4, seed: int = 0) -> Volume:
    """Return a prepared volume that comes from no file."""
    labels = heart_labels(size, slices)
    image = torch.from_numpy(heart_image(labels, seed)).float()
    image = (image - image.mean()) / image.std()
    return Volume(
        image=image[:, None],
        label=torch.from_numpy(labels)[:, None],
        native_label=torch.from_numpy(labels),
        native_spacing_mm=torch.tensor([8.0, 1.5, 1.5]),
    )


def write_case(
    folder: Path, *, size: int = 48, slices: int = 3, patient: str = "001", frame: str = "ED"
) -> Case:
    """Write a heart in the M&Ms-2 layout and numbers, which are the canonical ones."""
    labels = heart_labels(size, slices)
    stem = folder / "dataset" / patient / f"{patient}_SA_{frame}"
    image, label = stem.with_name(f"{stem.name}.nii.gz"), stem.with_name(f"{stem.name}_gt.nii.gz")
    stored = heart_image(labels, seed=int(patient)).transpose(2, 1, 0)
    write_nifti(image, stored.astype(np.float32))
    write_nifti(label, labels.transpose(2, 1, 0))
    return Case(patient, frame, image, label, MNMS_LABELS, {})


def write_table(folder: Path, rows: Iterable[Mapping[str, str]]) -> Path:
    """Write the index of the M&Ms-2 layout."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dataset_information.csv"
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


def write_mnms2_hearts(folder: Path, vendors: Mapping[str, int], *, slices: int = 3) -> Path:
    """Write a folder of small hearts, so many patients of each vendor."""
    rows: list[dict[str, str]] = []
    for vendor, patients in vendors.items():
        for _ in range(patients):
            rows.append({"SUBJECT_CODE": str(len(rows) + 1), "VENDOR": vendor})
            for frame in ("ED", "ES"):
                write_case(folder, patient=f"{len(rows):03d}", frame=frame, slices=slices)
    write_table(folder, rows)
    return folder


NNUNET = {
    "channel_names": {"0": "cineMRI"},
    "labels": {"background": 0, "LV": 1, "MYO": 2, "RV": 3},
    "file_ending": ".nii.gz",
}


def write_nnunet(
    cases: Iterable[Case],
    folder: Path,
    name: Callable[[Case], str],
    description: str,
    changes: Mapping[str, object] | None = None,
) -> Path:
    """Write cases with M&Ms-2's label numbers in nnU-Net's raw layout.

    Parameters
    ----------
    cases
        What to copy.
    folder
        Where to.
    name
        What a case is called.
    description
        Content of ``dataset.toml``.
    changes
        Of ``dataset.json``.
    """
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for case in cases:
        shutil.copy(case.image, folder / "imagesTr" / f"{name(case)}_0000.nii.gz")
        shutil.copy(case.label, folder / "labelsTr" / f"{name(case)}.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({**NNUNET, **(changes or {})}))
    (folder / "dataset.toml").write_text(description)
    return folder


TRAINS_ON = {
    "slice-axis": "a hint only: an image may have few pixels",
    "label-numbering": "a guess by the anatomy, which inspection alone measures",
    "structure-missing": "a frame may lack a structure, and is scored without it",
    "frames-same": "training looks at one frame at a time",
    "duplicate-image": "training looks at one frame at a time",
    "split-leak": "training looks at one frame at a time",
    "check-failed": "a fault of ours",
}
"""Errors that training does not stop at, and why."""


def training_stops(folder: Path, column: str | None) -> str:
    """Return the error by which training refuses a folder; empty where it accepts it."""
    try:
        for cases in site_groups(folder, column).values():
            split_cases(cases, seed=0)
        for case in read_cases(folder):
            load_frame(case)
    except UserError as error:
        return str(error)
    return ""


def check_agrees(inspection: Inspection, column: str | None = "VENDOR") -> None:
    """Assert that an inspection finds an error where training stops, and nowhere else."""
    errors = {fault.code for fault in inspection.findings if fault.severity == "error"}
    said = training_stops(inspection.data_dir, column)
    assert bool(said) == bool(errors - set(TRAINS_ON)), (said, errors)
