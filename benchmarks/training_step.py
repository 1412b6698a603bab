"""Measures a LoRA training step against full fine-tuning and against PEFT's layers.

The script times forward, loss, backward and optimiser on one U-Net, in seconds per image, in three
ways:

``lora``  ours: the factors reparametrise the convolution weight, W + scale · B·A
``full``  all weights trained, no adapter
``peft``  PEFT's ``Conv2d`` layers: the frozen convolution plus two small ones beside it

The three take their steps in turn (lora, full, peft, lora, …), so that other load on the machine
affects all of them alike. The script reports medians, and the median over turns of lora's time
divided by the other's in the same turn. The claim is that lora is no slower than either: both
ratios are at most 1.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --rank 32 --size 192 --batch 32 --device cuda
"""

import argparse
import time
from statistics import median

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from benchmarks.shared import PAPER, parser, publish
from cardiac.training import Trainer
from common import lora
from common.config import ModelConfig, TrainConfig
from common.labels import NUM_CLASSES
from common.model import build_unet

WAYS = ("lora", "full", "peft")


def make_model(way: str, features: tuple[int, ...], rank: int) -> nn.Module:
    """Return the network for a way; only the parameters that it trains require a gradient."""
    model: nn.Module = build_unet(features)
    if way == "lora":
        shapes = lora.layer_shapes(model)
        lora.set_adapter(model, lora.initial_adapter(shapes, rank, scale=1.0, seed=0))
    elif way == "peft":
        targets = sorted(lora.target_layers(model))
        model.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=targets)
        model = inject_adapter_in_model(config, model)
    return model


def timed_step(trainer: Trainer, image: Tensor, label: Tensor) -> float:
    """Return the seconds of one training step, as a site takes it."""
    _finish(trainer.device)
    started = time.perf_counter()
    trainer._step(image, label)
    _finish(trainer.device)
    return time.perf_counter() - started


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(args: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds per image of every counted step, by way."""
    features = ModelConfig(features=args.features).channels()
    settings = TrainConfig(device=args.device, batch_size=args.batch, image_size=args.size)
    generator = torch.Generator().manual_seed(0)
    shape = (args.batch, 1, args.size, args.size)
    image = torch.randn(shape, generator=generator)
    label = torch.randint(NUM_CLASSES, shape, generator=generator, dtype=torch.uint8)
    trainers = {
        way: Trainer(make_model(way, features, args.rank).train(), settings, 1e-3) for way in WAYS
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(args.warmup + args.turns):
        for way, trainer in trainers.items():
            taken = timed_step(trainer, image, label) / args.batch
            if turn >= args.warmup:
                seconds[way].append(taken)
    return seconds


def main() -> None:
    """Measure and report."""
    options = parser(__doc__)
    options.add_argument("--features", default=PAPER, help="channels of the U-Net")
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--size", type=int, default=128, help="side of the slices in pixels")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--turns", type=int, default=15, help="steps of each way")
    options.add_argument("--warmup", type=int, default=2, help="steps that are not counted")
    args = options.parse_args()

    seconds = measure(args)
    ratio = {
        way: median(ours / other for ours, other in zip(seconds["lora"], other_s, strict=True))
        for way, other_s in seconds.items()
    }
    title = (
        f"Training step, rank {args.rank}, batch {args.batch} of {args.size}×{args.size}, "
        f"{args.device}: median of {args.turns}"
    )
    rows = [
        [way, f"{1000 * median(taken):.2f}", f"{1000 * min(taken):.2f}", f"{ratio[way]:.3f}"]
        for way, taken in seconds.items()
    ]
    result = {
        "settings": {k: v for k, v in vars(args).items() if k != "json"},
        "ms_per_image": {way: 1000 * median(taken) for way, taken in seconds.items()},
        "lora_over": {way: ratio[way] for way in WAYS if way != "lora"},
        "holds": max(ratio.values()) <= 1,
        "seconds_per_image": seconds,
    }
    columns = ("way", "ms / image", "fastest", "lora / way")
    publish(title, columns, rows, result, args.json)


if __name__ == "__main__":
    main()
