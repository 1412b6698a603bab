"""Pretrain a base model on one data folder; an interrupted pretraining can be resumed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cardiac.datasets import Case, read_cases
from cardiac.evaluation import Scores, evaluate
from cardiac.preprocessing import Volume, load_volume, stamp, volumes
from cardiac.splits import split_patients
from cardiac.training import Trainer, training_slices
from common.config import RunConfig
from common.errors import UserError
from common.files import replace_file
from common.model import build_unet, save_base
from common.options import to_flat
from common.seeding import derive_seed

Report = Callable[[str, int, int, float], None]
"""Called with the name of the work, steps done, steps in all and the loss."""


def pretrain(data_dir: Path, out: Path, config: RunConfig, report: Report) -> tuple[str, Scores]:
    """Train a U-Net on a folder's patients, without a tenth held out, and write the base file.

    ``OUT.partial`` keeps the state after every epoch. An interrupted pretraining resumes from it
    and ends at the same weights as an unbroken one; it begins again where the data or a setting
    that affects the weights has changed.

    Returns
    -------
    sha256 : str
        Fingerprint of the base file.
    scores : Scores
        Dice on the held-out patients.

    Raises
    ------
    UserError
        The data have a fault or too few patients.
    """
    cases = read_cases(data_dir, config.data.affine_axes)
    try:
        held_out = set(split_patients((c.patient for c in cases), config.data.split_seed)["val"])
    except UserError as error:
        raise UserError(f"{data_dir}: {error}") from None
    dataset = volumes(cases, config.data.spacing_mm, config.path(config.data.cache_dir) / "volumes")
    seen: list[Volume] = []
    unseen: list[Volume] = []
    for index, case in enumerate(cases):
        (unseen if case.patient in held_out else seen).append(load_volume(dataset, index))
        report("reading cases", index + 1, len(cases), 0.0)
    slices = training_slices(seen)

    torch.manual_seed(derive_seed(config.seed, "base"))
    model = build_unet(config.model.channels())
    epochs = config.train.pretrain_epochs
    steps = epochs * -(-len(slices) // config.train.batch_size)
    trainer = Trainer(model, config.train, config.train.pretrain_learning_rate, anneal_steps=steps)
    partial = out.with_name(f"{out.name}.partial")
    key = _key(config, cases)
    for epoch in range(_restore(trainer, partial, key), epochs):

        def progress(step: int, steps_of_epoch: int, loss: float, epoch: int = epoch) -> None:
            report("pretraining", epoch * steps_of_epoch + step, steps, loss)

        trainer.epoch(slices, derive_seed(config.seed, "pretrain", epoch), progress)
        with replace_file(partial) as temporary:
            torch.save({"key": key, "epochs": epoch + 1, "trainer": trainer.state()}, temporary)
    sha256 = save_base(model.cpu(), out)
    partial.unlink(missing_ok=True)
    return sha256, evaluate(model, unseen, trainer.device, hd95=False)


def _key(config: RunConfig, cases: Sequence[Case]) -> str:
    """Return a fingerprint of the data and of all settings that affect the weights."""
    files = [
        [c.name, c.axes, c.frame_index, list(c.label_map.items()), stamp(c.image), stamp(c.label)]
        for c in cases
    ]
    affects = config.keys_that_affect("result")
    train = {key: value for key, value in to_flat(config.train).items() if key in affects}
    content = [config.model.features, train, config.seed, config.data.spacing_mm]
    content += [config.data.split_seed, files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _restore(trainer: Trainer, partial: Path, key: str) -> int:
    """Restore the state of an interrupted pretraining and return its number of whole epochs."""
    if not partial.is_file():
        return 0
    saved = torch.load(partial, weights_only=True)
    if saved["key"] != key:
        return 0
    trainer.restore(saved["trainer"])
    return int(saved["epochs"])
