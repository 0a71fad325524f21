"""The loss around a point: curvature along directions, the loss along lines, and the room a solution has."""

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

__all__ = [
    "DirectionalSharpness",
    "LossAlong",
    "Shadow",
    "SolutionAbundance",
    "compare_directions",
    "directional_sharpness",
    "loss_along",
    "solution_abundance",
]
