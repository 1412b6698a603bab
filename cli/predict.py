"""``rate-my-lora predict``: segments a hospital's own images and measures volumes and function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from cardiac.datasets import ACDC_LABELS, MNMS_LABELS
from cardiac.measurements import CaseRow, FrameRow, function_table, save_tables
from cardiac.nifti import count_frames
from cardiac.scoring import load_model
from cardiac.segmentation import write_segmentation
from cardiac.studies import find_studies
from cardiac.study_prediction import How, case_row, draw, frame_rows, segment_item
from cli.options import AdapterFile, BaseFile, ConfigFile
from common.console import console
from common.errors import UserError
from common.labels import NUM_CLASSES
from common.progress import progress
from server_app.run_config import load_config

Numbering = Literal["canonical", "mnms", "acdc"]
LABEL_MAPS: dict[Numbering, Mapping[int, int]] = {
    "canonical": {label: label for label in range(NUM_CLASSES)},
    "mnms": MNMS_LABELS,
    "acdc": ACDC_LABELS,
}


def predict(
    images: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="NIfTI files, or folders of them.")
    ],
    base: BaseFile,
    out: Annotated[Path, typer.Option(help="Folder to write; replaces files of the same name.")],
    adapter: AdapterFile = None,
    config: ConfigFile = None,
    labels: Annotated[
        Numbering, typer.Option(help="Numbers of LV, MYO and RV: 1 2 3, or 3 2 1 as in ACDC.")
    ] = "canonical",
    largest_component: Annotated[
        bool, typer.Option("--largest-component", help="Keep only each structure's largest part.")
    ] = False,
    any_spacing: Annotated[
        bool, typer.Option("--any-spacing", help="Accept spacings that look wrong.")
    ] = False,
    pictures: Annotated[bool, typer.Option(help="Draw the outlines on the slices, as PNG.")] = True,
) -> None:
    """Segment short-axis frames and cines; measure volumes and ejection fraction.

    IN is a NIfTI file (.nii or .nii.gz) of three axes, or of four where the last is time, or a
    folder of such files.
    """
    settings = load_config(config)
    model = load_model(base, adapter, settings)
    device, spacing_mm = settings.train.torch_device(), settings.data.spacing_mm
    axes = settings.data.affine_axes
    how = How(model, spacing_mm, device, largest_component, any_spacing, axes)
    studies = find_studies(images)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file, expected a folder to write to")
    total = sum(count_frames(item.path) for study in studies for item in study.items)
    done = refused = 0
    frames: list[FrameRow] = []
    rows: list[CaseRow] = []

    with progress(console) as report:

        def advance(count: int = 1) -> None:
            nonlocal done
            done += count
            report("segmenting frames", done, total, 0.0)

        for study in studies:
            files = []
            for item in study.items:
                try:
                    file = segment_item(item, how, advance)
                except UserError as error:
                    refused += 1
                    console.print(f"Refused: {error}")
                    advance(count_frames(item.path))
                    continue
                label_file = out / f"{item.name}_seg.nii.gz"
                write_segmentation(file.scan, file.labels, LABEL_MAPS[labels], label_file)
                files.append(file)
            if files:
                frames += frame_rows(study, files)
                rows.append(case_row(study, files))
                save_tables(frames, rows, out)
            if files and pictures:
                draw(study, files, out)
    if rows:
        console.print(function_table(rows))
        for row in rows:
            for doubt in row.doubts():
                console.print(f"Doubtful: {row.case}: {doubt}; look at its picture")
            if row.no_ef:
                console.print(f"No EF: {row.case}: {row.no_ef}")
        console.print(f"{out}: labels, volumes.csv, function.csv")
    if refused:
        raise UserError(f"{refused} of {sum(len(s.items) for s in studies)} files were refused")
