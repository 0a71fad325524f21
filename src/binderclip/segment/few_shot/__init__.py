"""Segmentation by example: the class that a support picture shows with its mask, found in other pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.few_shot.correlation import hypercorrelation, hypercorrelations
    from binderclip.segment.few_shot.levels import CorrelationBackbone, SupportFeatures
    from binderclip.segment.few_shot.matchers import HypercorrelationNet, PriorMask, PrototypeMatch
    from binderclip.segment.few_shot.saving import load_few_shot, save_few_shot
    from binderclip.segment.few_shot.segmenter import FewShotSegmenter, vote
    from binderclip.segment.few_shot.training import FewShotEpisodes, FewShotTraining, train_few_shot

__all__ = [
    "CorrelationBackbone",
    "FewShotEpisodes",
    "FewShotSegmenter",
    "FewShotTraining",
    "HypercorrelationNet",
    "PriorMask",
    "PrototypeMatch",
    "SupportFeatures",
    "hypercorrelation",
    "hypercorrelations",
    "load_few_shot",
    "save_few_shot",
    "train_few_shot",
    "vote",
]

lazy_exports(__name__)
