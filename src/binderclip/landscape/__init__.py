"""The loss around a point: curvature along directions, and the loss along lines."""

from __future__ import annotations

from binderclip.landscape.directional import (
    DirectionalSharpness,
    LossAlong,
    Shadow,
    compare_directions,
    directional_sharpness,
    loss_along,
)

__all__ = [
    "DirectionalSharpness",
    "LossAlong",
    "Shadow",
    "compare_directions",
    "directional_sharpness",
    "loss_along",
]
