"""Scores the runs of a comparison where segmentation is hard: the RV's apex, and small hearts.

The apex is the third of the slices with RV in the reference labels, and at least one slice, at the
end of the stack where the LV is smaller. Small hearts are the third of a run's test patients with
the smallest volume of LV, MYO and RV together at end-diastole. The table has the mean Dice over
test cases, as mean ± standard deviation over seeds.

    python -m benchmarks.rare runs/choices --rows "λ = 0" rate-my-lora "λ = 0.4"
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.shared import parser, publish
from cardiac.evaluation import dice, predict_labels
from common.labels import BACKGROUND, LV, RV
from results.compare.evaluate_run import Evaluation, models_of
from results.compare.folder import file_name
from results.compare.row_results import Spread

HEAD = ("RV", "RV at the apex", "small hearts", "other hearts")


@dataclass(frozen=True)
class CaseScore:
    """The Dice of a run's result on one case."""

    patient: str
    frame: str
    ml: float
    """Volume of LV, MYO and RV together in the reference labels."""
    mean: float
    """Mean Dice of the three structures."""
    rv: float
    apex: float
    """Dice of the RV in its apical slices."""


def apical(truth: Tensor) -> Tensor:
    """Return the indices of the apical third of the RV's slices in labels of shape (z, h, w)."""
    slices = torch.nonzero((truth == RV).flatten(1).any(1)).flatten()
    areas = (truth == LV).flatten(1).sum(1)
    if len(slices) and areas[slices[0]] > areas[slices[-1]]:
        slices = slices.flip(0)
    return slices[: max(1, len(slices) // 3)]


def score_run(run_dir: Path, sites: int) -> Iterator[CaseScore]:
    """Score the merged model of a run on every site's test cases."""
    work = Evaluation(run_dir, sites)
    (merged,) = models_of(run_dir, [], work.config)  # without sites: the merged model alone
    model = merged.load(work.config).to(work.device).eval()
    for site in work.sites:
        for case, volume in zip(site.cases["test"], site.volumes["test"], strict=True):
            truth = volume["native_label"]
            found = predict_labels(model, volume["image"], truth.shape[1:], work.device)
            end, whole = apical(truth), dice(found, truth)
            yield CaseScore(
                f"{site.name}/{case.patient}",
                case.frame,
                float((truth != BACKGROUND).sum() * volume["native_spacing_mm"].prod()) / 1e3,
                float(np.nanmean(whole)),
                float(whole[RV - 1]),
                float(dice(found[end], truth[end])[RV - 1]),
            )


def summary(scores: Sequence[CaseScore]) -> tuple[float, ...]:
    """Return the means over a run's cases, in the order of ``HEAD``."""
    sizes = {score.patient: score.ml for score in scores if score.frame == "ED"}
    small = set(sorted(sizes, key=lambda patient: sizes[patient])[: max(1, len(sizes) // 3)])
    columns = (
        [score.rv for score in scores],
        [score.apex for score in scores],
        [score.mean for score in scores if score.patient in small],
        [score.mean for score in scores if score.patient not in small],
    )
    return tuple(float(np.nanmean(values)) for values in columns)


def main() -> None:
    """Score and report."""
    options = parser(__doc__)
    options.add_argument("out", type=Path, help="folder of rate-my-lora compare")
    options.add_argument("--rows", nargs="+", required=True, help="rows of the comparison")
    options.add_argument("--setting", default="", help="setting, if there are several")
    options.add_argument("--sites", type=int, default=3)
    args = options.parse_args()
    table, found = [], defaultdict(list)
    for row in args.rows:
        names = [file_name(name) for name in (args.setting, row) if name]
        for ended in sorted(args.out.joinpath("runs", *names).glob("seed-*/evaluation.json")):
            found[row].append(summary(list(score_run(ended.parent, args.sites))))
            print(f"{row}, {ended.parent.name}: done", flush=True)
        if not found[row]:
            options.error(f"{args.out}: no run of {row!r} is evaluated")
        spreads = [Spread.of(values).text(4) for values in zip(*found[row], strict=True)]
        table.append([row, str(len(found[row])), *spreads])
    publish(args.out.name, ("method", "seeds", *HEAD), table, dict(found), args.json)


if __name__ == "__main__":
    main()
