"""Adapting a model to a task: the zero-shot classifier and few-shot heads, as scikit-learn estimators on features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from binderclip.adapt.autoclip import autoclip_scores, autoclip_weights
from binderclip.adapt.cache_head import TipAdapter
from binderclip.adapt.contexts import (
    AttributeProduct,
    ContextSet,
    attribute_product,
    context_sets,
    read_contexts,
    scrambled,
)
from binderclip.adapt.gaussian import ClassStatistics, GaussianHead, class_statistics, shrunk_precision
from binderclip.adapt.head import Blend, FeatureClassifier, FewShotHead, blend_search
from binderclip.adapt.inputs import features_for, level_input
from binderclip.adapt.linear_probe import LinearProbe
from binderclip.adapt.pools import POOLS, AutoPool, ContextPool, MaxPool, MeanPool, Pool
from binderclip.adapt.prior import align, prior_rows
from binderclip.adapt.prompt_learning import ECO, ProGrad, PromptLearning, PromptModule
from binderclip.adapt.saving import load_head, save_head
from binderclip.adapt.shots import HeadScore, compare_heads, draw_shots
from binderclip.adapt.through_model import ModelHead
from binderclip.adapt.tuned import Training, Tunable, TunedHead, by_epoch, train_tunable
from binderclip.adapt.views import GuidedCrops, Tiles, Views, WholeImage
from binderclip.adapt.zero_shot import DescriptionClassifier, ZeroShotClassifier

METHODS: dict[str, Callable[..., Any]] = {
    "coop": PromptLearning,
    "eco": ECO,
    "gda": GaussianHead,
    "linear-probe": LinearProbe,
    "prograd": ProGrad,
    "tip-adapter": TipAdapter,
    "zero-shot": ZeroShotClassifier,
}

__all__ = [
    "ECO",
    "METHODS",
    "POOLS",
    "AttributeProduct",
    "AutoPool",
    "Blend",
    "ClassStatistics",
    "ContextPool",
    "ContextSet",
    "DescriptionClassifier",
    "FeatureClassifier",
    "FewShotHead",
    "GaussianHead",
    "GuidedCrops",
    "HeadScore",
    "LinearProbe",
    "MaxPool",
    "MeanPool",
    "ModelHead",
    "Pool",
    "ProGrad",
    "PromptLearning",
    "PromptModule",
    "Tiles",
    "TipAdapter",
    "Training",
    "Tunable",
    "TunedHead",
    "Views",
    "WholeImage",
    "ZeroShotClassifier",
    "align",
    "attribute_product",
    "autoclip_scores",
    "autoclip_weights",
    "blend_search",
    "by_epoch",
    "class_statistics",
    "compare_heads",
    "context_sets",
    "draw_shots",
    "features_for",
    "level_input",
    "load_head",
    "prior_rows",
    "read_contexts",
    "save_head",
    "scrambled",
    "shrunk_precision",
    "train_tunable",
]
