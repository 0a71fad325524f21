"""Optimizers that guard their own vectors: clipped accumulators, medians instead of means, stabilised Adam."""

from __future__ import annotations

from binderclip.optim.optimizers.base import GuardedOptimizer
from binderclip.optim.optimizers.clipped_adaptive import ClippedAdaGrad, ClippedAdam
from binderclip.optim.optimizers.lamb import LAMB
from binderclip.optim.optimizers.median_momentum import MedianMomentum
from binderclip.optim.optimizers.sample_median import SampleMedianSGD
from binderclip.optim.optimizers.split import SplitSGD
from binderclip.optim.optimizers.stable_spam import NormStabilizer, SpamReport, StableSPAM

__all__ = [
    "LAMB",
    "ClippedAdaGrad",
    "ClippedAdam",
    "GuardedOptimizer",
    "MedianMomentum",
    "NormStabilizer",
    "SampleMedianSGD",
    "SpamReport",
    "SplitSGD",
    "StableSPAM",
]
