"""Adapting a model to a task: the zero-shot classifier and few-shot heads, as scikit-learn estimators on features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.adapt.few_shot.adapters import CLIPAdapter, TaskResidual
    from binderclip.adapt.few_shot.ape import APE, APETuned, channel_scores
    from binderclip.adapt.few_shot.gaussian import ClassStatistics, GaussianHead, class_statistics, shrunk_precision
    from binderclip.adapt.few_shot.linear_probe import LinearProbe
    from binderclip.adapt.few_shot.nearest import NearestExampleClassifier
    from binderclip.adapt.few_shot.prolip import ProLIP, VisualProjection, affine_map, pre_projection_texts
    from binderclip.adapt.few_shot.ranking import RankingAdapter
    from binderclip.adapt.few_shot.ranking_net import RankingNet, RankingShape
    from binderclip.adapt.few_shot.sentence_adapter import SentenceAttentionAdapter
    from binderclip.adapt.few_shot.tip_adapter import TipAdapter, TipAdapterF
    from binderclip.adapt.groups.directions import remove_direction
    from binderclip.adapt.groups.last_layer import LastLayerRetraining
    from binderclip.adapt.groups.thresholds import GroupThresholds
    from binderclip.adapt.groups.training import GroupDRO, reverse_gradient
    from binderclip.adapt.heads.base import FeatureClassifier, FewShotHead
    from binderclip.adapt.heads.blend import BlendResult, blend_search
    from binderclip.adapt.heads.inputs import features_for, level_input
    from binderclip.adapt.heads.prior import align, prior_rows
    from binderclip.adapt.heads.saving import head_model, load_head, save_head
    from binderclip.adapt.heads.shots import HeadScore, compare_heads, draw_shots
    from binderclip.adapt.heads.through_model import ModelHead
    from binderclip.adapt.heads.token_features import WordTokens, patch_tokens, word_tokens
    from binderclip.adapt.heads.tuned import Training, Tunable, TunedHead, by_epoch, train_tunable
    from binderclip.adapt.methods import METHODS
    from binderclip.adapt.multi_label.cdul import CDUL
    from binderclip.adapt.multi_label.labels import (
        PseudoLabels,
        TileAggregator,
        indicator,
        multilabel_average_precision,
    )
    from binderclip.adapt.multi_label.one_vs_rest import OneVsRest
    from binderclip.adapt.selection.conformal import conformal_sets, conformal_thresholds
    from binderclip.adapt.tuning.full_finetune import FullFineTune, recipe_augmentation
    from binderclip.adapt.tuning.lora import GLAD, LoRAModule, LoRATuning
    from binderclip.adapt.tuning.pixel_prompt import PixelPrompt, output_mapping
    from binderclip.adapt.tuning.prompt_learning import ECO, ProGrad, PromptLearning, PromptModule
    from binderclip.adapt.tuning.prompted_model import PromptedModel, TokenPrompt
    from binderclip.adapt.tuning.released_prompts import load_prompts
    from binderclip.adapt.tuning.visual_prompt import VisualPromptTuning
    from binderclip.adapt.visual_prompts.assignment import assign, match_keypoints, sinkhorn_plan
    from binderclip.adapt.visual_prompts.edits import MARKS, Copies, Crop, Edit, Outline, Outside, Steps, Tint
    from binderclip.adapt.visual_prompts.foveal import FovealBias, foveal_features, foveal_fields
    from binderclip.adapt.visual_prompts.keypoints import (
        Keypoint,
        MarkEffect,
        correct_keypoints,
        localise_keypoint,
        mark_effect,
    )
    from binderclip.adapt.visual_prompts.referring import (
        PRESETS,
        Located,
        Preset,
        RegionReferrer,
        prompted,
        region_features,
        score_regions,
        text_rows,
    )
    from binderclip.adapt.visual_prompts.regions import Region, as_regions
    from binderclip.adapt.zero_shot.autoclip import autoclip_scores, autoclip_weights
    from binderclip.adapt.zero_shot.classifier import DescriptionClassifier, ZeroShotClassifier
    from binderclip.adapt.zero_shot.contexts import (
        AttributeProduct,
        ContextSet,
        attribute_product,
        context_sets,
        read_contexts,
        scrambled,
    )
    from binderclip.adapt.zero_shot.continual import ContinualZeroShot
    from binderclip.adapt.zero_shot.descriptions import (
        Descriptions,
        ServiceError,
        read_descriptions,
        shipped_descriptions,
        shipped_prompt,
        write_descriptions,
    )
    from binderclip.adapt.zero_shot.polar import PolarClassifier
    from binderclip.adapt.zero_shot.pools import POOLS, AutoPool, ContextPool, MaxPool, MeanPool, Pool
    from binderclip.adapt.zero_shot.views import GuidedCrops, Tiles, Views, WholeImage

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
    "BlendResult",
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
    "FovealBias",
    "FullFineTune",
    "GaussianHead",
    "GroupDRO",
    "GroupThresholds",
    "GuidedCrops",
    "HeadScore",
    "Keypoint",
    "LastLayerRetraining",
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
    "PromptedModel",
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
    "Tint",
    "TipAdapter",
    "TipAdapterF",
    "TokenPrompt",
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
    "load_prompts",
    "localise_keypoint",
    "mark_effect",
    "match_keypoints",
    "multilabel_average_precision",
    "output_mapping",
    "patch_tokens",
    "pre_projection_texts",
    "prior_rows",
    "prompted",
    "read_contexts",
    "read_descriptions",
    "recipe_augmentation",
    "region_features",
    "remove_direction",
    "reverse_gradient",
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

lazy_exports(__name__)
