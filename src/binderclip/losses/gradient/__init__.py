"""Losses on the gradients of a loss: alignment between groups, flow from text to image."""
