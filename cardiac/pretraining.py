"""Pretraining of a base model on one data folder, resumable after every epoch."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
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
from common.seeding import derive_seed

Report = Callable[[str, int, int, float], None]
"""Called with (what is being done, steps done, steps in all, loss)."""


def pretrain(data_dir: Path, out: Path, config: RunConfig, report: Report) -> tuple[str, Scores]:
    """Train all weights of a U-Net on nine tenths of a folder's patients and write its file.

    An interrupted pretraining goes on from ``OUT.partial``, the state after the last whole epoch,
    and ends at the same weights as an unbroken one. It is left out when the settings changed.

    Returns
    -------
    sha256 : str
        The base file's fingerprint.
    scores : Scores
        Dice on the tenth that was not trained on.

    Raises
    ------
    UserError
        The data cannot be used.
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
    """Fingerprint of all that the weights depend on."""
    files = [[c.name, c.frame_index, stamp(c.image), stamp(c.label)] for c in cases]
    content = [config.model.features, asdict(config.train), config.seed, config.data.spacing_mm]
    content += [config.data.split_seed, files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _restore(trainer: Trainer, partial: Path, key: str) -> int:
    """Restore the state of an interrupted pretraining; return the epochs that it had done."""
    if not partial.is_file():
        return 0
    saved = torch.load(partial, weights_only=True)
    if saved["key"] != key:
        return 0
    trainer.restore(saved["trainer"])
    return int(saved["epochs"])
