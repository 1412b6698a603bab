"""Score a model on every case of a data folder, by site."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from cardiac.datasets import Case, group_by_site, read_cases
from cardiac.datasets.sites import ALL, site_column
from cardiac.evaluation import Scores, evaluate
from cardiac.preprocessing import load_volume, volumes
from cardiac.splits import Split, split_cases
from common import lora
from common.adapter import check_base, load_adapter
from common.config import RunConfig
from common.errors import UserError
from common.model import file_sha256, load_base
from common.progress import Advance


def load_model(base: Path, adapter: Path | None, config: RunConfig) -> torch.nn.Module:
    """Return the base model, with the adapter where one is given.

    Raises
    ------
    UserError
        A file is missing, broken or does not fit the configured model.
    """
    model: torch.nn.Module = load_base(base, config.model.channels(), sha256=config.base_sha256)
    if adapter is not None:
        factors, notes = load_adapter(adapter)
        check_base(adapter, notes, base, file_sha256(base))
        try:
            lora.set_adapter(model, factors)
        except ValueError as error:
            raise UserError(f"{adapter}: does not fit {base}: {error}") from None
    return model


def site_groups(data: Path, column: str | None, axes: str = "LPS") -> dict[str, list[Case]]:
    """Return the cases of a folder by site, or as one site ``all`` where nothing names sites.

    Raises
    ------
    UserError
        The folder cannot be read, or its csv lacks a column that was asked for.
    """
    cases = read_cases(data, axes)
    if column is None and any(site_column(cases, None) not in case.info for case in cases):
        return {ALL: cases}
    return group_by_site(cases, column, data)


def score_folder(
    model: torch.nn.Module,
    groups: dict[str, list[Case]],
    split: Split | None,
    config: RunConfig,
    report: Advance,
) -> dict[str, Any]:
    """Score the cases of a split, or all with None, in every group.

    Returns
    -------
    dict
        ``{"groups": {NAME: {"cases": n, "dice": {…}, "hd95_mm": {…}}}, "mean": {…}}``, where
        ``mean`` is over all cases.

    Raises
    ------
    UserError
        A case cannot be read, or a group is too small to split.
    """
    chosen = {}
    for name, cases in groups.items():
        try:
            chosen[name] = (
                cases if split is None else split_cases(cases, config.data.split_seed)[split]
            )
        except UserError as error:
            raise UserError(f"site {name}: {error}") from None
    total = sum(len(cases) for cases in chosen.values())
    cache_dir = config.path(config.data.cache_dir) / "volumes"
    device = config.train.torch_device()
    scores: dict[str, Scores] = {}
    done = 0
    for name, cases in chosen.items():
        dataset = volumes(cases, config.data.spacing_mm, cache_dir)
        parts = []
        for index in range(len(cases)):
            parts.append(evaluate(model, [load_volume(dataset, index)], device, hd95=True))
            done += 1
            report("evaluating cases", done, total, 0.0)
        scores[name] = _joined(parts)
    return {
        "groups": {name: {"cases": s.cases, **s.summary()} for name, s in scores.items()},
        "mean": _joined(list(scores.values())).summary(),
    }


def _joined(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([part.dice for part in parts]),
        np.concatenate([part.hd95_mm for part in parts]),
    )
