"""Slices with the outlines of structures drawn on them, as RGB arrays and PNG files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.files import replace_file
from common.labels import LV, MYO, RV

COLORS = {LV: (255, 77, 77), MYO: (64, 224, 96), RV: (77, 160, 255)}
"""RGB by label. Viewers with red-green blindness tell LV and MYO apart by their position."""
GREY_PERCENTILES = (1, 99)
PAPER = 24
"""Grey level of the background between pictures."""


def to_grey(image: np.ndarray) -> np.ndarray:
    """Return intensities of a slice or volume as uint8, stretched from its 1st to 99th percentile.

    Values that are not finite become black, as does an image without contrast.
    """
    known = image[np.isfinite(image)]
    low, high = np.percentile(known, GREY_PERCENTILES) if known.size else (0, 0)
    if not high > low:
        return np.zeros(image.shape, np.uint8)
    scaled = np.clip((np.nan_to_num(image, nan=low) - low) / (high - low), 0, 1)
    grey: np.ndarray = np.rint(255 * scaled).astype(np.uint8)
    return grey


def outline(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (h, w) that touch, by an edge, one outside it."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: np.ndarray = mask & ~inside
    return edge


def overlay(grey: np.ndarray, *labels: np.ndarray, scale: int = 2) -> np.ndarray:
    """Draw outlines of structures on a slice and return RGB (h · scale, w · scale, 3) uint8.

    Parameters
    ----------
    grey
        (h, w) uint8, see :func:`to_grey`.
    labels
        (h, w) canonical labels. The first is drawn in colour; a second one, the truth, in white
        under it, so that white remains where the two differ.
    scale
        Screen pixels on the side of an image pixel; outlines are one screen pixel wide.
    """
    block = np.ones((scale, scale), np.uint8)
    picture = np.repeat(np.kron(grey, block)[..., None], 3, axis=2)
    for position, label in reversed(list(enumerate(labels))):
        large = np.kron(label.astype(np.uint8), block)
        for structure, color in COLORS.items():
            picture[outline(large == structure)] = color if position == 0 else (255, 255, 255)
    return picture


def montage(
    pictures: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None
) -> np.ndarray:
    """Arrange pictures (h, w, 3) of any sizes in rows, each under its caption."""
    height = max(picture.shape[0] for picture in pictures)
    width = max(picture.shape[1] for picture in pictures)
    line = 16 if captions else 0
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    gap = 2
    size = columns * (width + gap) + gap, rows * (height + line + gap) + gap
    sheet = Image.new("RGB", size, (PAPER, PAPER, PAPER))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, picture in enumerate(pictures):
        left = gap + number % columns * (width + gap)
        top = gap + number // columns * (height + line + gap)
        if captions:
            draw.text((left + 2, top), captions[number], fill=(235, 235, 235), font=font)
        sheet.paste(Image.fromarray(picture), (left, top + line))
    return np.asarray(sheet)


def save_png(picture: np.ndarray, path: Path) -> None:
    """Write an RGB array (h, w, 3) as PNG."""
    with replace_file(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG", optimize=True)


def save_animation(pictures: Sequence[np.ndarray], path: Path, frame_ms: int = 60) -> None:
    """Write RGB arrays (h, w, 3) of one size as an animated PNG that repeats for ever."""
    first, *rest = (Image.fromarray(picture) for picture in pictures)
    with replace_file(path) as temporary:
        first.save(
            temporary, format="PNG", save_all=True, append_images=rest, duration=frame_ms, loop=0
        )
