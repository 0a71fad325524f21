"""Contrastive losses: memory-bounded, distributed, and the same in both; and losses of label maps.

The losses of label maps stand where `torch.nn.CrossEntropyLoss` stood:

    loss = NeighborPenaltyLoss(alpha=0.1)
    value = loss(logits, labels)  # (B, K, H, W), (B, H, W); -1 and 255 are ignored
    value.backward()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.losses.contrastive.embeddings import Embeddings, Term
    from binderclip.losses.contrastive.functional import info_nce, sigmoid_loss
    from binderclip.losses.contrastive.gradcache import contrastive_step
    from binderclip.losses.contrastive.loss import ContrastiveLoss, LossOutput, Pair
    from binderclip.losses.contrastive.presets import (
        METHODS,
        clip,
        clip_refine,
        clip_rocket,
        euclip,
        hard_negative,
        macl,
        mammo_clip,
        meru,
        siglip,
    )
    from binderclip.losses.contrastive.scale import AlignmentScale, LogitScale
    from binderclip.losses.contrastive.targets import Diagonal, SameKey, Targets
    from binderclip.losses.contrastive.terms.cross_modal import CrossModalBarlow, CrossModalSimSiam, CrossModalSwAV
    from binderclip.losses.contrastive.terms.distill import EmbeddingDistill, SimilarityDistill
    from binderclip.losses.contrastive.terms.entailment import EntailmentCone
    from binderclip.losses.contrastive.terms.hard_negatives import HardNegativeMargin
    from binderclip.losses.contrastive.terms.patch import PatchContrastive
    from binderclip.losses.contrastive.terms.refine import HybridContrastiveDistillation, RandomFeatureAlignment
    from binderclip.losses.contrastive.terms.soft_target import SoftTargetContrastive
    from binderclip.losses.contrastive.terms.triplet import TokenTriplet
    from binderclip.losses.degradation_rank import QualityRank
    from binderclip.losses.dense.distillation import content_distillation, context_distillation, region_correlation
    from binderclip.losses.dense.expert_labels import (
        ExpertLosses,
        expert_losses,
        normal_distance,
        scale_shift_invariant_l1,
    )
    from binderclip.losses.dense.label_maps import (
        DenseLoss,
        FocalLoss,
        MarginLabelSmoothingLoss,
        NACLLoss,
        NeighborPenaltyLoss,
        SVLSLoss,
    )
    from binderclip.losses.dense.mask_sets import MaskSetLoss, ReClass, ReMask
    from binderclip.losses.dense.mask_text import MaskTextContrast
    from binderclip.losses.dense.masked_features import FeatureMaskedModeling, patch_features, random_block_masks
    from binderclip.losses.dense.masked_patches import MaskedPatchReconstruction
    from binderclip.losses.dense.neighbor_prior import neighbor_prior
    from binderclip.losses.dense.superpixels import SuperpixelKL, patch_superpixels
    from binderclip.losses.dense.text_masks import FocalDice
    from binderclip.losses.distribution.sliced_wasserstein import (
        AugmentedSlicedWasserstein,
        GeneralizedSlicedWasserstein,
        MaxSlicedWasserstein,
        SlicedWasserstein,
        sliced_wasserstein,
    )
    from binderclip.losses.gradient.alignment import GradientAlignmentLoss, class_gradients
    from binderclip.losses.gradient.flow import GradientFlowPenalty, gradient_flow, unroll
    from binderclip.losses.prompt_rank import PromptRank
    from binderclip.losses.ranking import PairwiseRankLoss
    from binderclip.losses.routing import RouterLosses, load_balance, router_z
    from binderclip.losses.sampled_classes import SampledClassifier, sample_classes
    from binderclip.losses.self_supervised import prediction_distance
    from binderclip.similarity.geometry import (
        SIMILARITIES,
        ArcLength,
        Cosine,
        Euclidean,
        Inner,
        Lorentz,
        LorentzInner,
        Similarity,
        SquaredEuclidean,
        SquaredLorentz,
    )

__all__ = [
    "METHODS",
    "SIMILARITIES",
    "AlignmentScale",
    "ArcLength",
    "AugmentedSlicedWasserstein",
    "ContrastiveLoss",
    "Cosine",
    "CrossModalBarlow",
    "CrossModalSimSiam",
    "CrossModalSwAV",
    "DenseLoss",
    "Diagonal",
    "EmbeddingDistill",
    "Embeddings",
    "EntailmentCone",
    "Euclidean",
    "ExpertLosses",
    "FeatureMaskedModeling",
    "FocalDice",
    "FocalLoss",
    "GeneralizedSlicedWasserstein",
    "GradientAlignmentLoss",
    "GradientFlowPenalty",
    "HardNegativeMargin",
    "HybridContrastiveDistillation",
    "Inner",
    "LogitScale",
    "Lorentz",
    "LorentzInner",
    "LossOutput",
    "MarginLabelSmoothingLoss",
    "MaskSetLoss",
    "MaskTextContrast",
    "MaskedPatchReconstruction",
    "MaxSlicedWasserstein",
    "NACLLoss",
    "NeighborPenaltyLoss",
    "Pair",
    "PairwiseRankLoss",
    "PatchContrastive",
    "PromptRank",
    "QualityRank",
    "RandomFeatureAlignment",
    "ReClass",
    "ReMask",
    "RouterLosses",
    "SVLSLoss",
    "SameKey",
    "SampledClassifier",
    "Similarity",
    "SimilarityDistill",
    "SlicedWasserstein",
    "SoftTargetContrastive",
    "SquaredEuclidean",
    "SquaredLorentz",
    "SuperpixelKL",
    "Targets",
    "Term",
    "TokenTriplet",
    "class_gradients",
    "clip",
    "clip_refine",
    "clip_rocket",
    "content_distillation",
    "context_distillation",
    "contrastive_step",
    "euclip",
    "expert_losses",
    "gradient_flow",
    "hard_negative",
    "info_nce",
    "load_balance",
    "macl",
    "mammo_clip",
    "meru",
    "neighbor_prior",
    "normal_distance",
    "patch_features",
    "patch_superpixels",
    "prediction_distance",
    "random_block_masks",
    "region_correlation",
    "router_z",
    "sample_classes",
    "scale_shift_invariant_l1",
    "siglip",
    "sigmoid_loss",
    "sliced_wasserstein",
    "unroll",
]

lazy_exports(__name__)
