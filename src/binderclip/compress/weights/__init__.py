"""Pruning of weights: what is removed, when, and what becomes of its values and gradients."""
