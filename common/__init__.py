"""What sites and server share: configuration, messages, records, model and LoRA adapters."""
