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
    from binderclip.losses.contrastive.embeddings import Embeddings as Embeddings
    from binderclip.losses.contrastive.embeddings import Term as Term
    from binderclip.losses.contrastive.functional import info_nce as info_nce
    from binderclip.losses.contrastive.functional import sigmoid_loss as sigmoid_loss
    from binderclip.losses.contrastive.gradcache import contrastive_step as contrastive_step
    from binderclip.losses.contrastive.loss import ContrastiveLoss as ContrastiveLoss
    from binderclip.losses.contrastive.loss import LossOutput as LossOutput
    from binderclip.losses.contrastive.loss import Pair as Pair
    from binderclip.losses.contrastive.presets import METHODS as METHODS
    from binderclip.losses.contrastive.presets import clip as clip
    from binderclip.losses.contrastive.presets import clip_refine as clip_refine
    from binderclip.losses.contrastive.presets import clip_rocket as clip_rocket
    from binderclip.losses.contrastive.presets import euclip as euclip
    from binderclip.losses.contrastive.presets import hard_negative as hard_negative
    from binderclip.losses.contrastive.presets import macl as macl
    from binderclip.losses.contrastive.presets import mammo_clip as mammo_clip
    from binderclip.losses.contrastive.presets import meru as meru
    from binderclip.losses.contrastive.presets import siglip as siglip
    from binderclip.losses.contrastive.scale import AlignmentScale as AlignmentScale
    from binderclip.losses.contrastive.scale import LogitScale as LogitScale
    from binderclip.losses.contrastive.targets import Diagonal as Diagonal
    from binderclip.losses.contrastive.targets import SameKey as SameKey
    from binderclip.losses.contrastive.targets import Targets as Targets
    from binderclip.losses.contrastive.terms.cross_modal import CrossModalBarlow as CrossModalBarlow
    from binderclip.losses.contrastive.terms.cross_modal import CrossModalSimSiam as CrossModalSimSiam
    from binderclip.losses.contrastive.terms.cross_modal import CrossModalSwAV as CrossModalSwAV
    from binderclip.losses.contrastive.terms.distill import EmbeddingDistill as EmbeddingDistill
    from binderclip.losses.contrastive.terms.distill import SimilarityDistill as SimilarityDistill
    from binderclip.losses.contrastive.terms.entailment import EntailmentCone as EntailmentCone
    from binderclip.losses.contrastive.terms.hard_negatives import HardNegativeMargin as HardNegativeMargin
    from binderclip.losses.contrastive.terms.patch import PatchContrastive as PatchContrastive
    from binderclip.losses.contrastive.terms.refine import (
        HybridContrastiveDistillation as HybridContrastiveDistillation,
    )
    from binderclip.losses.contrastive.terms.refine import RandomFeatureAlignment as RandomFeatureAlignment
    from binderclip.losses.contrastive.terms.soft_target import SoftTargetContrastive as SoftTargetContrastive
    from binderclip.losses.contrastive.terms.triplet import TokenTriplet as TokenTriplet
    from binderclip.losses.cross_modal_distillation import CrossModalDistillation as CrossModalDistillation
    from binderclip.losses.cross_modal_distillation import CrossModalFeatures as CrossModalFeatures
    from binderclip.losses.degradation_rank import QualityRank as QualityRank
    from binderclip.losses.dense.distillation import content_distillation as content_distillation
    from binderclip.losses.dense.distillation import context_distillation as context_distillation
    from binderclip.losses.dense.distillation import region_correlation as region_correlation
    from binderclip.losses.dense.edges import DEXINED_WEIGHTS as DEXINED_WEIGHTS
    from binderclip.losses.dense.edges import BalancedEdgeBCE as BalancedEdgeBCE
    from binderclip.losses.dense.edges import TracingLoss as TracingLoss
    from binderclip.losses.dense.expert_labels import ExpertLosses as ExpertLosses
    from binderclip.losses.dense.expert_labels import expert_losses as expert_losses
    from binderclip.losses.dense.expert_labels import normal_distance as normal_distance
    from binderclip.losses.dense.expert_labels import scale_shift_invariant_l1 as scale_shift_invariant_l1
    from binderclip.losses.dense.label_maps import DenseLoss as DenseLoss
    from binderclip.losses.dense.label_maps import FocalLoss as FocalLoss
    from binderclip.losses.dense.label_maps import MarginLabelSmoothingLoss as MarginLabelSmoothingLoss
    from binderclip.losses.dense.label_maps import NACLLoss as NACLLoss
    from binderclip.losses.dense.label_maps import NeighborPenaltyLoss as NeighborPenaltyLoss
    from binderclip.losses.dense.label_maps import SVLSLoss as SVLSLoss
    from binderclip.losses.dense.mask_sets import MaskSetLoss as MaskSetLoss
    from binderclip.losses.dense.mask_sets import ReClass as ReClass
    from binderclip.losses.dense.mask_sets import ReMask as ReMask
    from binderclip.losses.dense.mask_text import MaskTextContrast as MaskTextContrast
    from binderclip.losses.dense.masked_features import FeatureMaskedModeling as FeatureMaskedModeling
    from binderclip.losses.dense.masked_features import patch_features as patch_features
    from binderclip.losses.dense.masked_features import random_block_masks as random_block_masks
    from binderclip.losses.dense.masked_patches import MaskedPatchReconstruction as MaskedPatchReconstruction
    from binderclip.losses.dense.neighbor_prior import neighbor_prior as neighbor_prior
    from binderclip.losses.dense.patch_nce import PatchNCELoss as PatchNCELoss
    from binderclip.losses.dense.superpixels import SuperpixelKL as SuperpixelKL
    from binderclip.losses.dense.superpixels import patch_superpixels as patch_superpixels
    from binderclip.losses.dense.text_masks import FocalDice as FocalDice
    from binderclip.losses.distribution.flow_kl import forward_kl as forward_kl
    from binderclip.losses.distribution.flow_kl import reverse_kl as reverse_kl
    from binderclip.losses.distribution.sliced_wasserstein import (
        AugmentedSlicedWasserstein as AugmentedSlicedWasserstein,
    )
    from binderclip.losses.distribution.sliced_wasserstein import (
        GeneralizedSlicedWasserstein as GeneralizedSlicedWasserstein,
    )
    from binderclip.losses.distribution.sliced_wasserstein import MaxSlicedWasserstein as MaxSlicedWasserstein
    from binderclip.losses.distribution.sliced_wasserstein import SlicedWasserstein as SlicedWasserstein
    from binderclip.losses.distribution.sliced_wasserstein import sliced_wasserstein as sliced_wasserstein
    from binderclip.losses.gradient.alignment import GradientAlignmentLoss as GradientAlignmentLoss
    from binderclip.losses.gradient.alignment import class_gradients as class_gradients
    from binderclip.losses.gradient.flow import GradientFlowPenalty as GradientFlowPenalty
    from binderclip.losses.gradient.flow import gradient_flow as gradient_flow
    from binderclip.losses.gradient.flow import unroll as unroll
    from binderclip.losses.gradient.input_penalties import gradient_penalty as gradient_penalty
    from binderclip.losses.gradient.input_penalties import (
        matching_aware_gradient_penalty as matching_aware_gradient_penalty,
    )
    from binderclip.losses.gradient.input_penalties import r1_penalty as r1_penalty
    from binderclip.losses.hoyer import hoyer_square as hoyer_square
    from binderclip.losses.prompt_rank import PromptRank as PromptRank
    from binderclip.losses.ranking import PairwiseRankLoss as PairwiseRankLoss
    from binderclip.losses.restoration.differences import exclusion_loss as exclusion_loss
    from binderclip.losses.restoration.differences import gradient_l1 as gradient_l1
    from binderclip.losses.restoration.flows import layer_order as layer_order
    from binderclip.losses.restoration.flows import total_variation as total_variation
    from binderclip.losses.restoration.structure import ssim_loss as ssim_loss
    from binderclip.losses.routing import RouterLosses as RouterLosses
    from binderclip.losses.routing import load_balance as load_balance
    from binderclip.losses.routing import router_z as router_z
    from binderclip.losses.sampled_classes import SampledClassifier as SampledClassifier
    from binderclip.losses.sampled_classes import sample_classes as sample_classes
    from binderclip.losses.self_supervised import prediction_distance as prediction_distance
    from binderclip.losses.semantic_preservation import SemanticPreservationLoss as SemanticPreservationLoss
    from binderclip.losses.weight_penalties import l1_penalty as l1_penalty
    from binderclip.losses.xing import XingLoss as XingLoss
    from binderclip.similarity.geometry import SIMILARITIES as SIMILARITIES
    from binderclip.similarity.geometry import ArcLength as ArcLength
    from binderclip.similarity.geometry import Cosine as Cosine
    from binderclip.similarity.geometry import Euclidean as Euclidean
    from binderclip.similarity.geometry import Inner as Inner
    from binderclip.similarity.geometry import Lorentz as Lorentz
    from binderclip.similarity.geometry import LorentzInner as LorentzInner
    from binderclip.similarity.geometry import Similarity as Similarity
    from binderclip.similarity.geometry import SquaredEuclidean as SquaredEuclidean
    from binderclip.similarity.geometry import SquaredLorentz as SquaredLorentz

lazy_exports(__name__)
