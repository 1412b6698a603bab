"""What sites and server share: model, LoRA adapters, their bytes, configuration."""
