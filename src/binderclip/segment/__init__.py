"""Segmentation by text and by clicks, masks from saliency, and segmentation metrics."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.segment import anomaly, metrics, presets
from binderclip.segment.affinity import CentredSoftmax, External, centred_softmax, cosines
from binderclip.segment.anomaly import (
    Anomalies,
    ContrastiveLanguagePrompting,
    InformationBottleneckMap,
    InpaintingAnomalyDetector,
    NormalMemory,
    WinCLIP,
)
from binderclip.segment.attention_refine import ClassScore, DiffusionAttention, FeatureAttention, SelfAttention
from binderclip.segment.cluster_vote import ClusterVote
from binderclip.segment.coco import coco_document, run_lengths
from binderclip.segment.context import Context, Frame, layer_at
from binderclip.segment.contributed import TokenContributions
from binderclip.segment.decomposition import DecompositionSegmenter
from binderclip.segment.detector import Detector, text_detector
from binderclip.segment.dinoiser import DINOiserHead, Student, StudentSaliency, dinoiser_loss, train_dinoiser
from binderclip.segment.evaluation import Measured, measure_segmenters
from binderclip.segment.fused import FusedAttention, LayerEnsemble
from binderclip.segment.fusion import ClassTokenProduct, LastOnly
from binderclip.segment.graph_cut import GraphCut, minimum_cut, saliency_graph_cut
from binderclip.segment.guided_pooling import BackgroundSeed, GuidedPooling, background_of, weighted_pool
from binderclip.segment.last_block import LastBlock, PatchWeights, identity, vanilla
from binderclip.segment.metrics import IoU, IoUScore, SortedAP, mask_iou, sorted_ap
from binderclip.segment.overrides import describe, override
from binderclip.segment.pamr import PAMR, pamr
from binderclip.segment.presets import CHOICES, DEPARTURES, PRESETS
from binderclip.segment.promptable import AutomaticMasks, InteractiveSession, Prompts, load_promptable
from binderclip.segment.prompted_masks import PromptedMasks, regions_of
from binderclip.segment.region_scope import Felzenszwalb, MaskMajority, PromptedRegions, Scope
from binderclip.segment.resolution import Whole, Windows
from binderclip.segment.result import Segmentation
from binderclip.segment.rewire import AttentionMean, Blend, DualPath, SelfSelf, self_cosine, without_class_token
from binderclip.segment.rule import ClassRule
from binderclip.segment.scoped import BranchSum, MaskClassTokens, MaskScoped, SpatialBranch
from binderclip.segment.segmenter import PARTS, Parts, Segmenter, parts_of, segment_all
from binderclip.segment.sheet import segmentation_sheet
from binderclip.segment.splicing import ValueMaskedAttention, tower_attention, value_masked
from binderclip.segment.text import BoundText, TextSide
from binderclip.segment.tidy import Closing, DropSmall
from binderclip.segment.views import ViewEnsemble

METHODS: dict[str, Callable[..., Any]] = {name: partial(Segmenter, preset=name) for name in PRESETS}

__all__ = [
    "CHOICES",
    "DEPARTURES",
    "METHODS",
    "PAMR",
    "PARTS",
    "PRESETS",
    "Anomalies",
    "AttentionMean",
    "AutomaticMasks",
    "BackgroundSeed",
    "Blend",
    "BoundText",
    "BranchSum",
    "CentredSoftmax",
    "ClassRule",
    "ClassScore",
    "ClassTokenProduct",
    "Closing",
    "ClusterVote",
    "Context",
    "ContrastiveLanguagePrompting",
    "DINOiserHead",
    "DecompositionSegmenter",
    "Detector",
    "DiffusionAttention",
    "DropSmall",
    "DualPath",
    "External",
    "FeatureAttention",
    "Felzenszwalb",
    "Frame",
    "FusedAttention",
    "GraphCut",
    "GuidedPooling",
    "InformationBottleneckMap",
    "InpaintingAnomalyDetector",
    "InteractiveSession",
    "IoU",
    "IoUScore",
    "LastBlock",
    "LastOnly",
    "LayerEnsemble",
    "MaskClassTokens",
    "MaskMajority",
    "MaskScoped",
    "Measured",
    "NormalMemory",
    "Parts",
    "PatchWeights",
    "PromptedMasks",
    "PromptedRegions",
    "Prompts",
    "Scope",
    "Segmentation",
    "Segmenter",
    "SelfAttention",
    "SelfSelf",
    "SortedAP",
    "SpatialBranch",
    "Student",
    "StudentSaliency",
    "TextSide",
    "TokenContributions",
    "ValueMaskedAttention",
    "ViewEnsemble",
    "Whole",
    "WinCLIP",
    "Windows",
    "anomaly",
    "background_of",
    "centred_softmax",
    "coco_document",
    "cosines",
    "describe",
    "dinoiser_loss",
    "identity",
    "layer_at",
    "load_promptable",
    "mask_iou",
    "measure_segmenters",
    "metrics",
    "minimum_cut",
    "override",
    "pamr",
    "parts_of",
    "presets",
    "regions_of",
    "run_lengths",
    "saliency_graph_cut",
    "segment_all",
    "segmentation_sheet",
    "self_cosine",
    "sorted_ap",
    "text_detector",
    "tower_attention",
    "train_dinoiser",
    "value_masked",
    "vanilla",
    "weighted_pool",
    "without_class_token",
]
