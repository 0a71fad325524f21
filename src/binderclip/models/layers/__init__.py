"""Layers and what is done to layers: norm-free, Lipschitz and spectral ones, LoRA, freezing."""
