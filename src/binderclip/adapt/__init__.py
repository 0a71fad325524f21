"""Adapting a model to a task: the zero-shot classifier and few-shot heads, as scikit-learn estimators on features."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.adapt.adapters import CLIPAdapter, TaskResidual
from binderclip.adapt.ape import APE, APETuned, channel_scores
from binderclip.adapt.assignment import assign, match_keypoints, sinkhorn_plan
from binderclip.adapt.autoclip import autoclip_scores, autoclip_weights
from binderclip.adapt.cache_head import TipAdapter, TipAdapterF
from binderclip.adapt.cdul import CDUL
from binderclip.adapt.conformal import conformal_sets, conformal_thresholds
from binderclip.adapt.contexts import (
    AttributeProduct,
    ContextSet,
    attribute_product,
    context_sets,
    read_contexts,
    scrambled,
)
from binderclip.adapt.continual import ContinualZeroShot
from binderclip.adapt.descriptions import (
    Descriptions,
    ServiceError,
    read_descriptions,
    shipped_descriptions,
    shipped_prompt,
    write_descriptions,
)
from binderclip.adapt.edits import MARKS, Copies, Crop, Edit, Fill, Outline, Outside, Steps
from binderclip.adapt.foveal import FovealBias, foveal_features, foveal_fields
from binderclip.adapt.full_finetune import FullFineTune, recipe_augmentation
from binderclip.adapt.gaussian import ClassStatistics, GaussianHead, class_statistics, shrunk_precision
from binderclip.adapt.head import Blend, FeatureClassifier, FewShotHead, blend_search
from binderclip.adapt.inputs import features_for, level_input
from binderclip.adapt.keypoints import (
    Keypoint,
    MarkEffect,
    correct_keypoints,
    localise_keypoint,
    mark_effect,
)
from binderclip.adapt.linear_probe import LinearProbe
from binderclip.adapt.lora_tuning import GLAD, LoRAModule, LoRATuning
from binderclip.adapt.multi_label import (
    PseudoLabels,
    TileAggregator,
    indicator,
    mean_average_precision,
)
from binderclip.adapt.nearest import NearestExampleClassifier
from binderclip.adapt.one_vs_rest import OneVsRest
from binderclip.adapt.pixel_prompt import PixelPrompt, output_mapping
from binderclip.adapt.polar import PolarClassifier
from binderclip.adapt.pools import POOLS, AutoPool, ContextPool, MaxPool, MeanPool, Pool
from binderclip.adapt.prior import align, prior_rows
from binderclip.adapt.projection import ProLIP, VisualProjection, affine_map, pre_projection_texts
from binderclip.adapt.prompt_learning import ECO, ProGrad, PromptLearning, PromptModule
from binderclip.adapt.ranking import RankingAdapter
from binderclip.adapt.ranking_net import RankingNet, RankingShape
from binderclip.adapt.referring import (
    PRESETS,
    Located,
    Preset,
    RegionReferrer,
    prompted,
    region_features,
    score_regions,
    text_rows,
)
from binderclip.adapt.regions import Region, as_regions
from binderclip.adapt.saving import head_model, load_head, save_head
from binderclip.adapt.sentence_adapter import SentenceAttentionAdapter
from binderclip.adapt.shots import HeadScore, compare_heads, draw_shots
from binderclip.adapt.through_model import ModelHead
from binderclip.adapt.token_features import WordTokens, patch_tokens, word_tokens
from binderclip.adapt.tuned import Training, Tunable, TunedHead, by_epoch, train_tunable
from binderclip.adapt.views import GuidedCrops, Tiles, Views, WholeImage
from binderclip.adapt.visual_prompt import VisualPromptTuning
from binderclip.adapt.zero_shot import DescriptionClassifier, ZeroShotClassifier

METHODS: dict[str, Callable[..., Any]] = {
    "ape": APE,
    "ape-t": APETuned,
    "clip-adapter": CLIPAdapter,
    "coop": PromptLearning,
    "eco": ECO,
    "evp": partial(VisualPromptTuning, recipe="evp"),
    "ft-clip": FullFineTune,
    "gda": GaussianHead,
    "glad": GLAD,
    "linear-probe": LinearProbe,
    "lora": LoRATuning,
    "nearest-example": NearestExampleClassifier,
    "prograd": ProGrad,
    "prolip": ProLIP,
    "task-residual": TaskResidual,
    "tip-adapter": TipAdapter,
    "tip-adapter-f": TipAdapterF,
    "visual-prompt": VisualPromptTuning,
    "zero-shot": ZeroShotClassifier,
}

__all__ = [
    "APE",
    "CDUL",
    "ECO",
    "GLAD",
    "MARKS",
    "METHODS",
    "POOLS",
    "PRESETS",
    "APETuned",
    "AttributeProduct",
    "AutoPool",
    "Blend",
    "CLIPAdapter",
    "ClassStatistics",
    "ContextPool",
    "ContextSet",
    "ContinualZeroShot",
    "Copies",
    "Crop",
    "DescriptionClassifier",
    "Descriptions",
    "Edit",
    "FeatureClassifier",
    "FewShotHead",
    "Fill",
    "FovealBias",
    "FullFineTune",
    "GaussianHead",
    "GuidedCrops",
    "HeadScore",
    "Keypoint",
    "LinearProbe",
    "LoRAModule",
    "LoRATuning",
    "Located",
    "MarkEffect",
    "MaxPool",
    "MeanPool",
    "ModelHead",
    "NearestExampleClassifier",
    "OneVsRest",
    "Outline",
    "Outside",
    "PixelPrompt",
    "PolarClassifier",
    "Pool",
    "Preset",
    "ProGrad",
    "ProLIP",
    "PromptLearning",
    "PromptModule",
    "PseudoLabels",
    "RankingAdapter",
    "RankingNet",
    "RankingShape",
    "Region",
    "RegionReferrer",
    "SentenceAttentionAdapter",
    "ServiceError",
    "Steps",
    "TaskResidual",
    "TileAggregator",
    "Tiles",
    "TipAdapter",
    "TipAdapterF",
    "Training",
    "Tunable",
    "TunedHead",
    "Views",
    "VisualProjection",
    "VisualPromptTuning",
    "WholeImage",
    "WordTokens",
    "ZeroShotClassifier",
    "affine_map",
    "align",
    "as_regions",
    "assign",
    "attribute_product",
    "autoclip_scores",
    "autoclip_weights",
    "blend_search",
    "by_epoch",
    "channel_scores",
    "class_statistics",
    "compare_heads",
    "conformal_sets",
    "conformal_thresholds",
    "context_sets",
    "correct_keypoints",
    "draw_shots",
    "features_for",
    "foveal_features",
    "foveal_fields",
    "head_model",
    "indicator",
    "level_input",
    "load_head",
    "localise_keypoint",
    "mark_effect",
    "match_keypoints",
    "mean_average_precision",
    "output_mapping",
    "patch_tokens",
    "pre_projection_texts",
    "prior_rows",
    "prompted",
    "read_contexts",
    "read_descriptions",
    "recipe_augmentation",
    "region_features",
    "save_head",
    "score_regions",
    "scrambled",
    "shipped_descriptions",
    "shipped_prompt",
    "shrunk_precision",
    "sinkhorn_plan",
    "text_rows",
    "train_tunable",
    "word_tokens",
    "write_descriptions",
]
