"""The console command ``rate-my-lora``."""
