"""Optimizers that guard their own vectors: clipped accumulators, medians instead of means, stabilised Adam."""

from __future__ import annotations

from binderclip.optim.optimizers.base import GuardedOptimizer
from binderclip.optim.optimizers.clipped_adaptive import ClippedAdaGrad, ClippedAdam

__all__ = ["ClippedAdaGrad", "ClippedAdam", "GuardedOptimizer"]
