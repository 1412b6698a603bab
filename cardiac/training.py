"""Train on slices, for a site's local epochs as for the pretraining of a base."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.data import DataLoader, Dataset
from monai.losses import DiceCELoss
from torch import Tensor, nn

from cardiac.augmentation import plain_tensors, training_transform
from cardiac.preprocessing import Volume
from common.config import TrainConfig
from common.seeding import derive_seed

Progress = Callable[[int, int, float], None]
"""Called after every step with steps done, steps of the epoch and the loss."""


def training_slices(volumes: Sequence[Volume]) -> list[dict[str, Tensor]]:
    """Return all slices of volumes: image float32 (1, h, w) and label uint8 (1, h, w)."""
    return [
        {"image": image, "label": label}
        for volume in volumes
        for image, label in zip(volume["image"], volume["label"], strict=True)
    ]


class Trainer:
    """Trains the parameters that require a gradient by AdamW on Dice plus cross-entropy.

    Parameters
    ----------
    model
        Network from (batch, 1, h, w) to logits (batch, 4, h, w); trained in place.
    config
        Batch size, image size, device, precision and augmentation.
    learning_rate
        Learning rate at the first step.
    anneal_steps
        Number of steps over which the learning rate falls to zero along a cosine; 0 for a
        constant rate.
    proximal
        μ of FedProx: the loss gains μ/2 · the squared distance of the trained parameters from
        their values at the start. Li et al., arXiv 1812.06127, Eq. 2.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        learning_rate: float,
        anneal_steps: int = 0,
        proximal: float = 0.0,
    ) -> None:
        self.config = config
        self.device = config.torch_device()
        self.model = model.to(self.device)
        self.proximal = proximal
        self.trainable = [p for p in model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trainable] if proximal else []
        self.optimiser = torch.optim.AdamW(
            self.trainable, learning_rate, weight_decay=config.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: _cosine(step, anneal_steps)
        )
        half = config.mixed_precision and self.device.type == "cuda"
        self.precision = torch.float16 if half else torch.float32
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.loss = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)

    def epoch(
        self, slices: Sequence[dict[str, Tensor]], seed: int, progress: Progress | None = None
    ) -> float:
        """Train on every slice once and return the mean loss.

        The order of the slices and their augmentation depend on ``seed`` alone.
        """
        config = self.config
        transform = training_transform(
            config.image_size, config.augment, derive_seed(seed, "augment")
        )
        loader = DataLoader(
            Dataset(slices, transform),
            batch_size=config.batch_size,
            shuffle=True,
            generator=torch.Generator().manual_seed(derive_seed(seed, "order")),
        )
        self.model.train()
        total = 0.0
        with plain_tensors():
            for step, batch in enumerate(loader, start=1):
                loss = self._step(batch["image"], batch["label"])
                total += loss
                if progress is not None:
                    progress(step, len(loader), loss)
        return total / len(loader)

    def _step(self, image: Tensor, label: Tensor) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss_of(image, label)
        if self.proximal:
            pairs = zip(self.trainable, self.start, strict=True)
            loss = loss + self.proximal / 2 * sum((p - start).square().sum() for p, start in pairs)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.schedule.step()
        return float(loss.item())

    def loss_of(self, image: Tensor, label: Tensor) -> Tensor:
        """Return the loss of a batch: images (b, 1, h, w), labels uint8 (b, 1, h, w)."""
        half = self.precision == torch.float16
        with torch.autocast(self.device.type, self.precision, enabled=half):
            logits = self.model(image.to(self.device))
        loss: Tensor = self.loss(logits.float(), label.to(self.device))
        return loss

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to continue after an epoch."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "steps": self.schedule.last_epoch,
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.last_epoch = state["steps"]
        self.scaler.load_state_dict(state["scaler"])


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * min(step / steps, 1))) if steps else 1.0
