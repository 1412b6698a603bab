"""Train with differential privacy for patients: clipped gradients plus noise, DP-SGD.

Source: Abadi et al., "Deep learning with differential privacy", arXiv 1607.00133, Algorithm 1, with
a patient in place of an example. All that is drawn at random comes from the operating system's
generator, so neither a run's seed nor a repetition says what was drawn.
"""

import os
import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from monai.transforms import Compose
from torch import Tensor, nn

from cardiac.augmentation import plain_tensors, training_transform
from cardiac.training import Trainer
from common.config import TrainConfig

Slices = Sequence[dict[str, Tensor]]
DRAWS = 4
"""Normal numbers that are added up for one of the noise. The bits of a single one would tell what
it was added to; see Holohan and Braghin, "Secure random sampling in differential privacy",
arXiv 2107.10138."""
SYSTEM = random.SystemRandom()


class PrivateTrainer(Trainer):
    """Trains the parameters that require a gradient by AdamW on noisy sums of clipped gradients.

    A step draws every patient on its own with a probability, takes the gradient of each drawn
    patient's slices, scales it down to a length of at most ``clip_norm``, adds the gradients up,
    and adds Gaussian noise. What follows from that sum, AdamW included, costs no more privacy.
    The network must not mix the slices of a batch, as batch normalisation would.

    Parameters
    ----------
    model, config, learning_rate, proximal
        As those of :class:`cardiac.training.Trainer`. A step takes at most ``batch-size`` slices
        of a patient, and computes in single precision.
    noise_multiplier
        σ: the noise's standard deviation in units of ``clip_norm``.
    clip_norm
        Longest gradient of a patient, in the Euclidean norm over all trained parameters.
    sampling_rate
        Probability with which a step draws a patient.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        learning_rate: float,
        *,
        noise_multiplier: float,
        clip_norm: float,
        sampling_rate: float,
        proximal: float = 0.0,
    ) -> None:
        config = replace(config, mixed_precision=False)  # its scaling depends on all patients
        super().__init__(model, config, learning_rate, proximal=proximal)
        self.noise_multiplier = noise_multiplier
        self.clip_norm = clip_norm
        self.sampling_rate = sampling_rate

    def train(self, patients: Sequence[Slices], steps: int) -> None:
        """Train on the slices of patients, each of whom has at least one, for some steps."""
        size, augment = self.config.image_size, self.config.augment
        transform = training_transform(size, augment, SYSTEM.getrandbits(32))
        self.model.train()
        with plain_tensors():
            for _ in range(steps):
                self._private_step(patients, transform)

    def _private_step(self, patients: Sequence[Slices], transform: Compose) -> None:
        noise = normal(sum(p.numel() for p in self.trainable))  # drawn whoever is
        total = self.noise_multiplier * self.clip_norm * noise.to(self.device)
        for slices in patients:
            if SYSTEM.random() < self.sampling_rate:
                total += clipped(self._gradient(slices, transform), self.clip_norm)
        mean = total / (self.sampling_rate * len(patients))
        parts = torch.split(mean, [p.numel() for p in self.trainable])
        for index, (p, part) in enumerate(zip(self.trainable, parts, strict=True)):
            p.grad = part.view_as(p).to(p.dtype)
            if self.proximal:
                p.grad += self.proximal * (p.detach() - self.start[index])
        self.optimiser.step()

    def _gradient(self, slices: Slices, transform: Compose) -> Tensor:
        """Return the gradient of one patient's loss, flat, in double precision."""
        taken = SYSTEM.sample(slices, min(len(slices), self.config.batch_size))
        batch = [transform(item) for item in taken]
        image, label = (torch.stack([item[key] for item in batch]) for key in ("image", "label"))
        found = torch.autograd.grad(self.loss_of(image, label), self.trainable)
        return torch.cat([part.flatten() for part in found]).double()


def clipped(gradient: Tensor, clip_norm: float) -> Tensor:
    """Return a gradient scaled down to at most ``clip_norm``; zero where it is not finite."""
    norm = gradient.norm()
    if not torch.isfinite(norm):
        return torch.zeros_like(gradient)
    return gradient * (clip_norm / torch.clamp(norm, min=clip_norm))


def normal(count: int) -> Tensor:
    """Return standard normal numbers, (count,) float64, from the operating system's generator."""
    total = np.zeros(count + count % 2)
    for _ in range(DRAWS):  # by Box and Muller
        bits = np.frombuffer(os.urandom(8 * len(total)), np.uint64)
        u, v = ((bits >> 11) * 2.0**-53).reshape(2, -1)
        length, angle = np.sqrt(-2 * np.log1p(-u)), 2 * np.pi * v
        total += np.concatenate([length * np.cos(angle), length * np.sin(angle)])
    return torch.from_numpy(total[:count] / np.sqrt(DRAWS))
