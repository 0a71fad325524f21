"""Editing by score distillation: directions in which a denoiser moves a given picture."""
