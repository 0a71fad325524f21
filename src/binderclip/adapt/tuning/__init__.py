"""Tuning of the model itself for a task: learned prompts, LoRA, all weights, pixels around the picture."""
