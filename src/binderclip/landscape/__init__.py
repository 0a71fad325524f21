"""The loss around a point: curvature along directions and at its largest, and the loss along lines."""

from __future__ import annotations

from binderclip.landscape.directional import (
    DirectionalSharpness,
    LossAlong,
    Shadow,
    compare_directions,
    directional_sharpness,
    loss_along,
)
from binderclip.landscape.hessian import HessianEstimate, hessian_trace, top_eigenvalue

__all__ = [
    "DirectionalSharpness",
    "HessianEstimate",
    "LossAlong",
    "Shadow",
    "compare_directions",
    "directional_sharpness",
    "hessian_trace",
    "loss_along",
    "top_eigenvalue",
]
