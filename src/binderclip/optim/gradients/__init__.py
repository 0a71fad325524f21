"""Gradients as clips, rules and optimizers look at them: collected, measured, and their order statistics."""
