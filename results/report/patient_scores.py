"""Computes scores, pictures and the cross-client matrix of a run from the images."""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cardiac.datasets import Case
from cardiac.evaluation import evaluate, predict_labels
from cardiac.pictures import montage, overlay, to_grey
from cardiac.preprocessing import Volume, load_volume, resample, volumes
from cardiac.scoring import load_model, site_groups
from cardiac.splits import SPLITS, Split, split_cases
from common.config import RunConfig
from common.errors import UserError
from common.progress import Advance
from results.report.patients import CaseScores, Measured, Patients, Picture, Transfer, worst
from results.run_reader import mean

WORST_PER_SITE, MOST_PICTURES = 2, 12
SLICES = 3
"""How many slices of a case are drawn."""
MARGIN = 12
"""Pixels between the structures and the edge of a picture."""
SLICE_PX = 260
"""Most screen pixels along the side of a drawn slice."""


def score_patients(
    sites: Sequence[str],
    data: Path,
    base: Path,
    adapter: Path,
    updates: Mapping[int, Mapping[str, Path]],
    config: RunConfig,
    report: Advance,
) -> Patients:
    """Score base and result on every test patient, and each site's own adapter at all sites.

    Sites of the run that the folder ``data`` lacks are left out. ``adapter`` is the run's result;
    ``updates`` has the files of the sites' own adapters by round and site.

    Raises
    ------
    UserError
        ``data`` holds no site of the run, or a file is broken.
    """
    cases = _split(sites, data, config)
    work = _Work(cases, base, config, report)
    work.expect(2, "test")
    if updates:
        work.expect(len(sites), "test")
        work.expect(len(sites) * len(updates), "val")
    before, after = work.model(None), work.model(adapter)
    scores = [
        CaseScores(
            site, c.patient, c.frame, work.measure(before, volume), work.measure(after, volume)
        )
        for site in cases
        for c, volume in work.volumes(site, "test")
    ]
    sizes: dict[str, dict[str, int]] = {
        site: {split: len({case.patient for case in parts[split]}) for split in SPLITS}
        for site, parts in cases.items()
    }
    pictures = [
        Picture(c.site, c.patient, c.frame, draw_case(after, volume, work.device))
        for c in worst(scores, WORST_PER_SITE, MOST_PICTURES)
        for _, volume in work.volumes(c.site, "test", (c.patient, c.frame))
    ]
    return Patients(scores, sizes, pictures, _transfer(work, updates) if updates else None)


def draw_case(model: torch.nn.Module, volume: Volume, device: torch.device) -> str:
    """Return a PNG in base64 of the slices with most wrong pixels, first slice first.

    Predicted outlines are drawn in colour over the true ones in white.
    """
    truth = volume["native_label"].numpy()
    size = truth.shape[1:]
    prediction = predict_labels(model, volume["image"], size, device).numpy()
    grey = to_grey(resample(volume["image"], size)[:, 0].numpy())  # (z, 1, h, w) -> (z, H, W)
    wrong = np.count_nonzero(prediction != truth, axis=(1, 2))
    slices = sorted(np.argsort(-wrong, kind="stable")[:SLICES])
    heart = (prediction[slices] > 0) | (truth[slices] > 0)  # (SLICES, H, W)
    rows, columns = _window(np.any(heart, axis=0))
    scale = max(1, SLICE_PX // max(rows.stop - rows.start, columns.stop - columns.start))
    pictures = [
        overlay(*(array[z, rows, columns] for array in (grey, prediction, truth)), scale=scale)
        for z in slices
    ]
    buffer = io.BytesIO()
    Image.fromarray(montage(pictures, SLICES)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns of a square around the set pixels of a mask (h, w)."""
    if not mask.any():
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    half = max(high - low for low, high in ends) / 2 + MARGIN
    rows, columns = (
        slice(max(0, int(sum(end) / 2 - half)), min(length, int(sum(end) / 2 + half) + 1))
        for end, length in zip(ends, mask.shape, strict=True)
    )
    return rows, columns


def _split(
    sites: Sequence[str], data: Path, config: RunConfig
) -> dict[str, dict[Split, list[Case]]]:
    """Return the cases of the run's sites by split; a hospital has those of its own site only."""
    groups = site_groups(data, config.data.split_by, config.data.affine_axes)
    found = [site for site in sites if site in groups]
    if not found:
        raise UserError(
            f"{data}: split by {config.data.split_by} it has {', '.join(groups)}; expected a site "
            f"of the run: {', '.join(sites) or 'none took part yet'}"
        )
    cases = {}
    for site in found:
        try:
            cases[site] = split_cases(groups[site], config.data.split_seed)
        except UserError as error:
            raise UserError(f"{data}: site {site}: {error}") from None
    return cases


class _Work:
    """Runs models on the sites' cases and reports its progress."""

    def __init__(
        self,
        cases: Mapping[str, Mapping[Split, Sequence[Case]]],
        base: Path,
        config: RunConfig,
        report: Advance,
    ) -> None:
        self.cases, self.base, self.config, self.report = cases, base, config, report
        self.device = config.train.torch_device()
        self.done = self.total = 0

    def expect(self, models: int, split: Split) -> None:
        """Add to the planned work that so many models are run on all cases of a split."""
        self.total += models * sum(len(parts[split]) for parts in self.cases.values())

    def model(self, adapter: Path | None) -> torch.nn.Module:
        """Return the base model, with the adapter where one is given."""
        return load_model(self.base, adapter, self.config)

    def volumes(
        self, site: str, split: Split, only: tuple[str, str] | None = None
    ) -> Iterator[tuple[Case, Volume]]:
        """Yield a site's cases of a split, or only that of one (patient, frame)."""
        cases = [c for c in self.cases[site][split] if only in (None, (c.patient, c.frame))]
        cache = self.config.path(self.config.data.cache_dir) / "volumes"
        dataset = volumes(cases, self.config.data.spacing_mm, cache)
        for index, case in enumerate(cases):
            yield case, load_volume(dataset, index)

    def measure(self, model: torch.nn.Module, volume: Volume) -> Measured:
        """Return Dice and HD95 of a model on a volume."""
        scores = evaluate(model, [volume], self.device, hd95=True)
        self._advance()
        return Measured(tuple(scores.dice[0].tolist()), tuple(scores.hd95_mm[0].tolist()))

    def dice_by_site(self, adapter: Path, split: Split) -> dict[str, float]:
        """Return an adapter's mean Dice at every site."""
        model = self.model(adapter)
        found: dict[str, list[float]] = {site: [] for site in self.cases}
        for site, dice in found.items():
            for _, volume in self.volumes(site, split):
                dice.append(evaluate(model, [volume], self.device, hd95=False).mean_dice)
                self._advance()
        return {site: mean(dice) for site, dice in found.items()}

    def _advance(self) -> None:
        self.done += 1
        self.report("scoring single patients", self.done, self.total, 0.0)


def _transfer(work: _Work, updates: Mapping[int, Mapping[str, Path]]) -> Transfer:
    last = max(updates)
    own = {site: work.dice_by_site(path, "test") for site, path in updates[last].items()}
    rounds = []
    for server_round, files in updates.items():
        scores = {site: work.dice_by_site(path, "val") for site, path in files.items()}
        inside = mean(at[site] for site, at in scores.items() if site in at)
        across = mean(dice for site, at in scores.items() for x, dice in at.items() if x != site)
        rounds.append((server_round, inside, across))
    return Transfer(last, own, rounds)
