"""Segmentation by text and by clicks, masks from saliency, and segmentation metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.segment import anomaly, clicks, few_shot, metrics, presets, task
    from binderclip.segment.anomaly import (
        Anomalies,
        ContrastiveLanguagePrompting,
        InformationBottleneckMap,
        InpaintingAnomalyDetector,
        NormalMemory,
        WinCLIP,
    )
    from binderclip.segment.clicks import (
        AdversarialClicker,
        ClickCurves,
        ClickRobustness,
        InteractiveEvaluation,
        RandomClicker,
        UserClicker,
        click_robustness,
        point_prompt_benchmark,
        prompt_features,
        sample_points,
        tune_prompts,
    )
    from binderclip.segment.cut.grid import minimum_cut
    from binderclip.segment.cut.labels import CutSettings, cut_labels
    from binderclip.segment.decomposition import DecompositionSegmenter
    from binderclip.segment.evaluation import Measured, measure_segmenters
    from binderclip.segment.few_shot import (
        CorrelationBackbone,
        FewShotEpisodes,
        FewShotSegmenter,
        FewShotTraining,
        HypercorrelationNet,
        PriorMask,
        PrototypeMatch,
        hypercorrelation,
        load_few_shot,
        save_few_shot,
        train_few_shot,
    )
    from binderclip.segment.lifting.votes import lift_masks, lifted_mask, mask_votes
    from binderclip.segment.methods import METHODS
    from binderclip.segment.metrics import IoU, IoUScore, SortedAP, mask_iou, sorted_ap
    from binderclip.segment.output.boxes import Detector, text_detector
    from binderclip.segment.output.coco import coco_document, coco_instances, instance_records, run_lengths
    from binderclip.segment.output.result import Segmentation
    from binderclip.segment.output.sheet import segmentation_sheet
    from binderclip.segment.overrides import describe, override
    from binderclip.segment.parts.affinity import CentredSoftmax, External, centred_softmax, cosines
    from binderclip.segment.parts.concept_maps import ConceptMaps
    from binderclip.segment.parts.context import Context, Frame, layer_at
    from binderclip.segment.parts.contributed import TokenContributions
    from binderclip.segment.parts.fused import FusedAttention, LayerEnsemble
    from binderclip.segment.parts.fusion import ClassTokenProduct, LastOnly
    from binderclip.segment.parts.guided_pooling import BackgroundSeed, GuidedPooling, background_of, weighted_pool
    from binderclip.segment.parts.last_block import LastBlock, PatchWeights, identity, vanilla
    from binderclip.segment.parts.region_scope import Felzenszwalb, MaskMajority, PromptedRegions, Scope
    from binderclip.segment.parts.resolution import Whole, Windows
    from binderclip.segment.parts.rewire import (
        AttentionMean,
        Blend,
        DualPath,
        SelfSelf,
        self_cosine,
        without_class_token,
    )
    from binderclip.segment.parts.rule import ClassRule
    from binderclip.segment.parts.scoped import BranchSum, MaskClassTokens, MaskScoped, SpatialBranch
    from binderclip.segment.parts.splicing import ValueMaskedAttention, tower_attention, value_masked
    from binderclip.segment.parts.text import GROUND, BoundText, TextSide
    from binderclip.segment.parts.views import ViewEnsemble
    from binderclip.segment.presets import CHOICES, DEPARTURES, PRESETS, SUMMARIES
    from binderclip.segment.promptable import (
        AutomaticMasks,
        CutSegmenter,
        InteractiveSession,
        PromptableSegmenter,
        Prompts,
        load_promptable,
    )
    from binderclip.segment.refine.attention_refine import (
        ClassScore,
        DiffusionAttention,
        FeatureAttention,
        SelfAttention,
    )
    from binderclip.segment.refine.cluster_vote import ClusterVote
    from binderclip.segment.refine.grab_cut import GrabCut
    from binderclip.segment.refine.graph_cut import GraphCut, saliency_graph_cut
    from binderclip.segment.refine.pamr import PAMR, pamr
    from binderclip.segment.refine.prompted_masks import PromptedMasks, regions_of
    from binderclip.segment.refine.tidy import Closing, DropSmall
    from binderclip.segment.segmenter import PARTS, Parts, Segmenter, parts_of, segment_all
    from binderclip.segment.task import TASK_METHODS, TaskGenericSegmenter, TaskMask
    from binderclip.segment.trained.cascade import CascadeCLIP, CascadeTraining, train_cascade
    from binderclip.segment.trained.declip import AttentionChain, DeCLIP, train_declip
    from binderclip.segment.trained.dinoiser import (
        DINOiserHead,
        Student,
        StudentSaliency,
        dinoiser_loss,
        train_dinoiser,
    )
    from binderclip.segment.trained.heads import TrainedHead, open_head
    from binderclip.segment.trained.mask_text_decoder import MaskTextDecoder
    from binderclip.segment.trained.merged import MergedEncoder
    from binderclip.segment.trained.merging import MERGE_STAGES, MaskRehearsal, MergeStage, MergeTraining, train_merge
    from binderclip.segment.trained.mta_clip import MTACLIP, MTACLIPTraining, train_mta_clip
    from binderclip.segment.trained.panoptic import (
        PanopticNet,
        PanopticTraining,
        load_panoptic,
        save_panoptic,
        train_panoptic,
    )
    from binderclip.segment.trained.segclip import SegCLIP
    from binderclip.segment.trained.segclip_training import SegCLIPObjective, SegCLIPTraining, train_segclip
    from binderclip.segment.trained.text_query_decoder import TextQueryDecoder
    from binderclip.segment.tubular.pictures import TracedLine, trace_picture
    from binderclip.segment.tubular.samples import TubularSamples, annotated_samples, tailored_samples
    from binderclip.segment.tubular.saving import load_tracer, save_tracer
    from binderclip.segment.tubular.tracer import LocalPathNet, TubularTrace, TubularTracer
    from binderclip.segment.tubular.training import TracerTraining, line_accuracy, line_distance, train_tracer

__all__ = [
    "CHOICES",
    "DEPARTURES",
    "GROUND",
    "MERGE_STAGES",
    "METHODS",
    "MTACLIP",
    "PAMR",
    "PARTS",
    "PRESETS",
    "SUMMARIES",
    "TASK_METHODS",
    "AdversarialClicker",
    "Anomalies",
    "AttentionChain",
    "AttentionMean",
    "AutomaticMasks",
    "BackgroundSeed",
    "Blend",
    "BoundText",
    "BranchSum",
    "CascadeCLIP",
    "CascadeTraining",
    "CentredSoftmax",
    "ClassRule",
    "ClassScore",
    "ClassTokenProduct",
    "ClickCurves",
    "ClickRobustness",
    "Closing",
    "ClusterVote",
    "ConceptMaps",
    "Context",
    "ContrastiveLanguagePrompting",
    "CorrelationBackbone",
    "CutSegmenter",
    "CutSettings",
    "DINOiserHead",
    "DeCLIP",
    "DecompositionSegmenter",
    "Detector",
    "DiffusionAttention",
    "DropSmall",
    "DualPath",
    "External",
    "FeatureAttention",
    "Felzenszwalb",
    "FewShotEpisodes",
    "FewShotSegmenter",
    "FewShotTraining",
    "Frame",
    "FusedAttention",
    "GrabCut",
    "GraphCut",
    "GuidedPooling",
    "HypercorrelationNet",
    "InformationBottleneckMap",
    "InpaintingAnomalyDetector",
    "InteractiveEvaluation",
    "InteractiveSession",
    "IoU",
    "IoUScore",
    "LastBlock",
    "LastOnly",
    "LayerEnsemble",
    "LocalPathNet",
    "MTACLIPTraining",
    "MaskClassTokens",
    "MaskMajority",
    "MaskRehearsal",
    "MaskScoped",
    "MaskTextDecoder",
    "Measured",
    "MergeStage",
    "MergeTraining",
    "MergedEncoder",
    "NormalMemory",
    "PanopticNet",
    "PanopticTraining",
    "Parts",
    "PatchWeights",
    "PriorMask",
    "PromptableSegmenter",
    "PromptedMasks",
    "PromptedRegions",
    "Prompts",
    "PrototypeMatch",
    "RandomClicker",
    "Scope",
    "SegCLIP",
    "SegCLIPObjective",
    "SegCLIPTraining",
    "Segmentation",
    "Segmenter",
    "SelfAttention",
    "SelfSelf",
    "SortedAP",
    "SpatialBranch",
    "Student",
    "StudentSaliency",
    "TaskGenericSegmenter",
    "TaskMask",
    "TextQueryDecoder",
    "TextSide",
    "TokenContributions",
    "TracedLine",
    "TracerTraining",
    "TrainedHead",
    "TubularSamples",
    "TubularTrace",
    "TubularTracer",
    "UserClicker",
    "ValueMaskedAttention",
    "ViewEnsemble",
    "Whole",
    "WinCLIP",
    "Windows",
    "annotated_samples",
    "anomaly",
    "background_of",
    "centred_softmax",
    "click_robustness",
    "clicks",
    "coco_document",
    "coco_instances",
    "cosines",
    "cut_labels",
    "describe",
    "dinoiser_loss",
    "few_shot",
    "hypercorrelation",
    "identity",
    "instance_records",
    "layer_at",
    "lift_masks",
    "lifted_mask",
    "line_accuracy",
    "line_distance",
    "load_few_shot",
    "load_panoptic",
    "load_promptable",
    "load_tracer",
    "mask_iou",
    "mask_votes",
    "measure_segmenters",
    "metrics",
    "minimum_cut",
    "open_head",
    "override",
    "pamr",
    "parts_of",
    "point_prompt_benchmark",
    "presets",
    "prompt_features",
    "regions_of",
    "run_lengths",
    "saliency_graph_cut",
    "sample_points",
    "save_few_shot",
    "save_panoptic",
    "save_tracer",
    "segment_all",
    "segmentation_sheet",
    "self_cosine",
    "sorted_ap",
    "tailored_samples",
    "task",
    "text_detector",
    "tower_attention",
    "trace_picture",
    "train_cascade",
    "train_declip",
    "train_dinoiser",
    "train_few_shot",
    "train_merge",
    "train_mta_clip",
    "train_panoptic",
    "train_segclip",
    "train_tracer",
    "tune_prompts",
    "value_masked",
    "vanilla",
    "weighted_pool",
    "without_class_token",
]

lazy_exports(__name__)
