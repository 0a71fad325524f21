"""Contrastive losses: memory-bounded, distributed, and the same in both; and losses of label maps.

The losses of label maps stand where `torch.nn.CrossEntropyLoss` stood:

    loss = NeighborPenaltyLoss(alpha=0.1)
    value = loss(logits, labels)  # (B, K, H, W), (B, H, W); -1 and 255 are ignored
    value.backward()
"""

from __future__ import annotations

from binderclip.losses.contrastive import METHODS, ContrastiveLoss, LossOutput, Pair, clip, siglip
from binderclip.losses.dense import (
    DenseLoss,
    FocalLoss,
    MarginLabelSmoothingLoss,
    NACLLoss,
    NeighborPenaltyLoss,
    SVLSLoss,
)
from binderclip.losses.distill import EmbeddingDistill, SimilarityDistill
from binderclip.losses.embeddings import Embeddings, Term
from binderclip.losses.functional import info_nce, sigmoid_loss
from binderclip.losses.geometry import Cosine, Inner, Similarity
from binderclip.losses.gradcache import contrastive_step
from binderclip.losses.gradient_alignment import GradientAlignmentLoss, class_gradients
from binderclip.losses.gradient_flow import GradientFlowPenalty, gradient_flow, unroll
from binderclip.losses.neighbor_prior import neighbor_prior
from binderclip.losses.ranking import PairwiseRankLoss
from binderclip.losses.scale import LogitScale
from binderclip.losses.targets import Diagonal, SameKey, Targets

__all__ = [
    "METHODS",
    "ContrastiveLoss",
    "Cosine",
    "DenseLoss",
    "Diagonal",
    "EmbeddingDistill",
    "Embeddings",
    "FocalLoss",
    "GradientAlignmentLoss",
    "GradientFlowPenalty",
    "Inner",
    "LogitScale",
    "LossOutput",
    "MarginLabelSmoothingLoss",
    "NACLLoss",
    "NeighborPenaltyLoss",
    "Pair",
    "PairwiseRankLoss",
    "SVLSLoss",
    "SameKey",
    "Similarity",
    "SimilarityDistill",
    "Targets",
    "Term",
    "class_gradients",
    "clip",
    "contrastive_step",
    "gradient_flow",
    "info_nce",
    "neighbor_prior",
    "siglip",
    "sigmoid_loss",
    "unroll",
]
