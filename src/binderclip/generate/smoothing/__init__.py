"""Classifiers made robust by a diffusion model: one-step denoising under randomised smoothing, and adaptation to it."""
