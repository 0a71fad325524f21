"""Attribution: which parts of an image speak for a text or a class.

Every method is called `Method(...)(model, images, target) -> Attribution`; any callable
`(model, images, target) -> maps (B, H, W)` can be scored like ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from binderclip.explain import targets
from binderclip.explain.ablation import early_heads, late_blocks, mean_ablate
from binderclip.explain.attribute import Plan, attribute, attribute_all
from binderclip.explain.attribution import Attribution, blank_maps, peaks
from binderclip.explain.class_image import ClassImage, ClassModelImage
from binderclip.explain.class_sensitivity import ClassSensitivity, class_sensitivity, map_correlation
from binderclip.explain.comparison import OPTIMISED, Comparison, compare, contact_sheet
from binderclip.explain.concepts import Concept, ConceptReport, concept_report
from binderclip.explain.decomposition import Decomposition, decompose_image_embedding, decompositions
from binderclip.explain.diffroar import DiffROAR, DiffROARResult, SignalNull, signal_null_energy
from binderclip.explain.drawing import to_map
from binderclip.explain.eclip import GradECLIP, MedGradECLIP
from binderclip.explain.extraction import extract_aggregate
from binderclip.explain.full_gradient import BiasTerm, FullGrad, FullGradients, full_gradients
from binderclip.explain.gathering import Crops, Ensemble, GaussianNoise, Path, Signal
from binderclip.explain.gradcam import GradCAM
from binderclip.explain.gradcam_plus_plus import GradCAMPlusPlus, SmoothGradCAMPlusPlus
from binderclip.explain.gradients import InputXGradient, IntegratedGradients, SmoothGrad
from binderclip.explain.head_roles import DescriptionPool, description_pool, text_roles
from binderclip.explain.heads import NamedHead, name_heads, spurious_heads
from binderclip.explain.input_gradients import gradient_alignment, input_gradient
from binderclip.explain.layers import combine_layers, layer_maps, stage_layers
from binderclip.explain.localisation import energy_inside, pointing_game
from binderclip.explain.mask import MaskAttribution, MaskExplanation
from binderclip.explain.mask_methods import CartoonX, PixelMask, ShearletX, WaveletX
from binderclip.explain.mask_scores import conciseness_preciseness, hallucination_score
from binderclip.explain.meta_step import MetaStep, meta_saliency
from binderclip.explain.misalignment import DenseMisalignment, Misalignment
from binderclip.explain.normgrad import ExtractAggregate, NormGrad
from binderclip.explain.perturbation import (
    PerturbationArea,
    PixelPerturbation,
    deletion_auc,
    insertion_auc,
    maps_of,
    pixel_perturbation,
)
from binderclip.explain.randomisation import Randomisation, parameter_randomisation, rank_correlation
from binderclip.explain.relu_rules import relu_rule
from binderclip.explain.retrain import RetrainTable, from_scratch, keep_mask, remove_and_retrain
from binderclip.explain.rollout import AttentionRollout
from binderclip.explain.saliency import Saliency
from binderclip.explain.text_span import Span, TextSpan
from binderclip.explain.text_tokens import LeaveOneWordOut, TextTokenAttribution, WordScores

METHODS: dict[str, Callable[..., Any]] = {
    "cartoonx": CartoonX,
    "fullgrad": FullGrad,
    "gradcam": GradCAM,
    "gradcampp": GradCAMPlusPlus,
    "gradeclip": GradECLIP,
    "input_x_gradient": InputXGradient,
    "integrated_gradients": IntegratedGradients,
    "medgradeclip": MedGradECLIP,
    "normgrad": NormGrad,
    "pixelmask": PixelMask,
    "rollout": AttentionRollout,
    "saliency": Saliency,
    "shearletx": ShearletX,
    "smoothgrad": SmoothGrad,
    "smoothgrad_squared": partial(SmoothGrad, statistic="mean-square"),
    "smoothgradcampp": SmoothGradCAMPlusPlus,
    "vargrad": partial(SmoothGrad, statistic="variance"),
    "waveletx": WaveletX,
}

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
    "Path",
    "PerturbationArea",
    "PixelMask",
    "PixelPerturbation",
    "Plan",
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
    "peaks",
    "pixel_perturbation",
    "pointing_game",
    "rank_correlation",
    "relu_rule",
    "remove_and_retrain",
    "signal_null_energy",
    "spurious_heads",
    "stage_layers",
    "targets",
    "text_roles",
    "to_map",
]
