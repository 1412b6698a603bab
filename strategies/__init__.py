"""The method and its neighbours as Flower strategies; `RateMyLoRA` is the one to start."""

from strategies.rate_my_lora import RateMyLoRA

__all__ = ["RateMyLoRA"]
