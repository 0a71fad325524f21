"""Segmentation by example: the class that a support picture shows with its mask, found in other pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment.few_shot.correlation import hypercorrelation as hypercorrelation
    from binderclip.segment.few_shot.correlation import hypercorrelations as hypercorrelations
    from binderclip.segment.few_shot.levels import CorrelationBackbone as CorrelationBackbone
    from binderclip.segment.few_shot.levels import SupportFeatures as SupportFeatures
    from binderclip.segment.few_shot.matchers import HypercorrelationNet as HypercorrelationNet
    from binderclip.segment.few_shot.matchers import PriorMask as PriorMask
    from binderclip.segment.few_shot.matchers import PrototypeMatch as PrototypeMatch
    from binderclip.segment.few_shot.saving import load_few_shot as load_few_shot
    from binderclip.segment.few_shot.saving import save_few_shot as save_few_shot
    from binderclip.segment.few_shot.segmenter import FewShotSegmenter as FewShotSegmenter
    from binderclip.segment.few_shot.segmenter import vote as vote
    from binderclip.segment.few_shot.training import FewShotEpisodes as FewShotEpisodes
    from binderclip.segment.few_shot.training import FewShotTraining as FewShotTraining
    from binderclip.segment.few_shot.training import train_few_shot as train_few_shot

lazy_exports(__name__)
