"""The loss around a point: its curvature along directions and at most, the loss along lines, and a solution's room."""

from __future__ import annotations

from binderclip.landscape.abundance import SolutionAbundance, solution_abundance
from binderclip.landscape.directional import (
    DirectionalSharpness,
    LossAlong,
    Shadow,
    compare_directions,
    directional_sharpness,
    loss_along,
)
from binderclip.landscape.hessian import HessianEstimate, hessian_trace, top_eigenvalue
from binderclip.landscape.paths import bezier_middle, figure_between

__all__ = [
    "DirectionalSharpness",
    "HessianEstimate",
    "LossAlong",
    "Shadow",
    "SolutionAbundance",
    "bezier_middle",
    "compare_directions",
    "directional_sharpness",
    "figure_between",
    "hessian_trace",
    "loss_along",
    "solution_abundance",
    "top_eigenvalue",
]
