"""Attribution: which parts of an image speak for a text or a class.

Every method is called `Method(...)(model, images, target) -> Attribution`; any callable
`(model, images, target) -> maps (B, H, W)` can be scored like ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.explain.decompose.ablation import early_heads, late_blocks, mean_ablate
    from binderclip.explain.decompose.concept_mapper import ConceptMapper, concept_boxes, tower_maps
    from binderclip.explain.decompose.concepts import Concept, ConceptReport, concept_report
    from binderclip.explain.decompose.decomposition import Decomposition, decompose_image_embedding, decompositions
    from binderclip.explain.decompose.head_roles import DescriptionPool, description_pool, text_roles
    from binderclip.explain.decompose.heads import NamedHead, name_heads, spurious_heads
    from binderclip.explain.decompose.text_span import Span, TextSpan
    from binderclip.explain.engine import targets
    from binderclip.explain.engine.attribute import Plan, PlanMethod, attribute, attribute_all
    from binderclip.explain.engine.attribution import Attribution, blank_maps, peaks
    from binderclip.explain.engine.drawing import to_map
    from binderclip.explain.engine.gathering import Crops, Ensemble, GaussianNoise, Path, Signal
    from binderclip.explain.engine.layers import combine_layers, layer_maps, stage_layers
    from binderclip.explain.faithfulness.class_sensitivity import ClassSensitivity, class_sensitivity, map_correlation
    from binderclip.explain.faithfulness.comparison import OPTIMISED, Comparison, compare, contact_sheet
    from binderclip.explain.faithfulness.diffroar import DiffROAR, DiffROARResult, SignalNull, signal_null_energy
    from binderclip.explain.faithfulness.localisation import energy_inside, pointing_game
    from binderclip.explain.faithfulness.perturbation import (
        PerturbationArea,
        PixelPerturbation,
        deletion_auc,
        insertion_auc,
        maps_of,
        pixel_perturbation,
    )
    from binderclip.explain.faithfulness.randomisation import Randomisation, parameter_randomisation, rank_correlation
    from binderclip.explain.faithfulness.retrain import RetrainTable, from_scratch, keep_mask, remove_and_retrain
    from binderclip.explain.gradient.class_image import ClassImage, ClassModelImage
    from binderclip.explain.gradient.extraction import extract_aggregate
    from binderclip.explain.gradient.full_gradient import BiasTerm, FullGrad, FullGradients, full_gradients
    from binderclip.explain.gradient.gradcam import GradCAM
    from binderclip.explain.gradient.gradcam_plus_plus import GradCAMPlusPlus, SmoothGradCAMPlusPlus
    from binderclip.explain.gradient.gradients import InputXGradient, IntegratedGradients, SmoothGrad
    from binderclip.explain.gradient.input_gradients import gradient_alignment, input_gradient
    from binderclip.explain.gradient.meta_step import MetaStep, meta_saliency
    from binderclip.explain.gradient.normgrad import ExtractAggregate, NormGrad
    from binderclip.explain.gradient.relu_rules import relu_rule
    from binderclip.explain.gradient.saliency import Saliency
    from binderclip.explain.mask.methods import CartoonX, PixelMask, ShearletX, WaveletX
    from binderclip.explain.mask.optimise import MaskAttribution, MaskExplanation
    from binderclip.explain.mask.patch_effect import PatchEffects, patch_direct_effect, single_patch_scores
    from binderclip.explain.mask.scores import conciseness_preciseness, hallucination_score
    from binderclip.explain.methods import METHODS
    from binderclip.explain.transformer.eclip import GradECLIP, MedGradECLIP
    from binderclip.explain.transformer.rollout import AttentionRollout
    from binderclip.explain.words.concept_map import ConceptMap
    from binderclip.explain.words.misalignment import DenseMisalignment, Misalignment
    from binderclip.explain.words.text_tokens import LeaveOneWordOut, TextTokenAttribution, WordScores

__all__ = [
    "METHODS",
    "OPTIMISED",
    "AttentionRollout",
    "Attribution",
    "BiasTerm",
    "CartoonX",
    "ClassImage",
    "ClassModelImage",
    "ClassSensitivity",
    "Comparison",
    "Concept",
    "ConceptMap",
    "ConceptMapper",
    "ConceptReport",
    "Crops",
    "Decomposition",
    "DenseMisalignment",
    "DescriptionPool",
    "DiffROAR",
    "DiffROARResult",
    "Ensemble",
    "ExtractAggregate",
    "FullGrad",
    "FullGradients",
    "GaussianNoise",
    "GradCAM",
    "GradCAMPlusPlus",
    "GradECLIP",
    "InputXGradient",
    "IntegratedGradients",
    "LeaveOneWordOut",
    "MaskAttribution",
    "MaskExplanation",
    "MedGradECLIP",
    "MetaStep",
    "Misalignment",
    "NamedHead",
    "NormGrad",
    "PatchEffects",
    "Path",
    "PerturbationArea",
    "PixelMask",
    "PixelPerturbation",
    "Plan",
    "PlanMethod",
    "Randomisation",
    "RetrainTable",
    "Saliency",
    "ShearletX",
    "Signal",
    "SignalNull",
    "SmoothGrad",
    "SmoothGradCAMPlusPlus",
    "Span",
    "TextSpan",
    "TextTokenAttribution",
    "WaveletX",
    "WordScores",
    "attribute",
    "attribute_all",
    "blank_maps",
    "class_sensitivity",
    "combine_layers",
    "compare",
    "concept_boxes",
    "concept_report",
    "conciseness_preciseness",
    "contact_sheet",
    "decompose_image_embedding",
    "decompositions",
    "deletion_auc",
    "description_pool",
    "early_heads",
    "energy_inside",
    "extract_aggregate",
    "from_scratch",
    "full_gradients",
    "gradient_alignment",
    "hallucination_score",
    "input_gradient",
    "insertion_auc",
    "keep_mask",
    "late_blocks",
    "layer_maps",
    "map_correlation",
    "maps_of",
    "mean_ablate",
    "meta_saliency",
    "name_heads",
    "parameter_randomisation",
    "patch_direct_effect",
    "peaks",
    "pixel_perturbation",
    "pointing_game",
    "rank_correlation",
    "relu_rule",
    "remove_and_retrain",
    "signal_null_energy",
    "single_patch_scores",
    "spurious_heads",
    "stage_layers",
    "targets",
    "text_roles",
    "to_map",
    "tower_maps",
]

lazy_exports(__name__)
