"""Attribution: which parts of an image speak for a text or a class.

Every method is called `Method(...)(model, images, target) -> Attribution`; any callable
`(model, images, target) -> maps (B, H, W)` can be scored like ours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.explain.decompose.ablation import early_heads as early_heads
    from binderclip.explain.decompose.ablation import late_blocks as late_blocks
    from binderclip.explain.decompose.ablation import mean_ablate as mean_ablate
    from binderclip.explain.decompose.concept_mapper import ConceptMapper as ConceptMapper
    from binderclip.explain.decompose.concept_mapper import concept_boxes as concept_boxes
    from binderclip.explain.decompose.concept_mapper import tower_maps as tower_maps
    from binderclip.explain.decompose.concepts import Concept as Concept
    from binderclip.explain.decompose.concepts import ConceptReport as ConceptReport
    from binderclip.explain.decompose.concepts import concept_report as concept_report
    from binderclip.explain.decompose.decomposition import Decomposition as Decomposition
    from binderclip.explain.decompose.decomposition import decompose_image_embedding as decompose_image_embedding
    from binderclip.explain.decompose.decomposition import decompositions as decompositions
    from binderclip.explain.decompose.head_roles import DescriptionPool as DescriptionPool
    from binderclip.explain.decompose.head_roles import description_pool as description_pool
    from binderclip.explain.decompose.head_roles import text_roles as text_roles
    from binderclip.explain.decompose.heads import NamedHead as NamedHead
    from binderclip.explain.decompose.heads import name_heads as name_heads
    from binderclip.explain.decompose.heads import spurious_heads as spurious_heads
    from binderclip.explain.decompose.text_span import Span as Span
    from binderclip.explain.decompose.text_span import TextSpan as TextSpan
    from binderclip.explain.engine import targets as targets
    from binderclip.explain.engine.attribute import Plan as Plan
    from binderclip.explain.engine.attribute import PlanMethod as PlanMethod
    from binderclip.explain.engine.attribute import attribute as attribute
    from binderclip.explain.engine.attribute import attribute_all as attribute_all
    from binderclip.explain.engine.attribute import iter_attributions as iter_attributions
    from binderclip.explain.engine.attribution import Attribution as Attribution
    from binderclip.explain.engine.attribution import blank_maps as blank_maps
    from binderclip.explain.engine.attribution import peaks as peaks
    from binderclip.explain.engine.drawing import to_map as to_map
    from binderclip.explain.engine.gathering import Crops as Crops
    from binderclip.explain.engine.gathering import Ensemble as Ensemble
    from binderclip.explain.engine.gathering import GaussianNoise as GaussianNoise
    from binderclip.explain.engine.gathering import Path as Path
    from binderclip.explain.engine.gathering import Signal as Signal
    from binderclip.explain.engine.layers import combine_layers as combine_layers
    from binderclip.explain.engine.layers import layer_maps as layer_maps
    from binderclip.explain.engine.layers import stage_layers as stage_layers
    from binderclip.explain.faithfulness.class_sensitivity import ClassSensitivity as ClassSensitivity
    from binderclip.explain.faithfulness.class_sensitivity import class_sensitivity as class_sensitivity
    from binderclip.explain.faithfulness.class_sensitivity import map_correlation as map_correlation
    from binderclip.explain.faithfulness.comparison import OPTIMISED as OPTIMISED
    from binderclip.explain.faithfulness.comparison import Comparison as Comparison
    from binderclip.explain.faithfulness.comparison import compare as compare
    from binderclip.explain.faithfulness.comparison import contact_sheet as contact_sheet
    from binderclip.explain.faithfulness.diffroar import DiffROAR as DiffROAR
    from binderclip.explain.faithfulness.diffroar import DiffROARResult as DiffROARResult
    from binderclip.explain.faithfulness.diffroar import SignalNull as SignalNull
    from binderclip.explain.faithfulness.diffroar import signal_null_energy as signal_null_energy
    from binderclip.explain.faithfulness.localisation import energy_inside as energy_inside
    from binderclip.explain.faithfulness.localisation import pointing_game as pointing_game
    from binderclip.explain.faithfulness.perturbation import PerturbationArea as PerturbationArea
    from binderclip.explain.faithfulness.perturbation import PixelPerturbation as PixelPerturbation
    from binderclip.explain.faithfulness.perturbation import deletion_auc as deletion_auc
    from binderclip.explain.faithfulness.perturbation import insertion_auc as insertion_auc
    from binderclip.explain.faithfulness.perturbation import maps_of as maps_of
    from binderclip.explain.faithfulness.perturbation import pixel_perturbation as pixel_perturbation
    from binderclip.explain.faithfulness.randomisation import Randomisation as Randomisation
    from binderclip.explain.faithfulness.randomisation import parameter_randomisation as parameter_randomisation
    from binderclip.explain.faithfulness.randomisation import rank_correlation as rank_correlation
    from binderclip.explain.faithfulness.retrain import RetrainTable as RetrainTable
    from binderclip.explain.faithfulness.retrain import from_scratch as from_scratch
    from binderclip.explain.faithfulness.retrain import keep_mask as keep_mask
    from binderclip.explain.faithfulness.retrain import remove_and_retrain as remove_and_retrain
    from binderclip.explain.gradient.attention_scores import attention_gradient_scores as attention_gradient_scores
    from binderclip.explain.gradient.class_image import ClassImage as ClassImage
    from binderclip.explain.gradient.class_image import ClassModelImage as ClassModelImage
    from binderclip.explain.gradient.extraction import extract_aggregate as extract_aggregate
    from binderclip.explain.gradient.full_gradient import BiasTerm as BiasTerm
    from binderclip.explain.gradient.full_gradient import FullGrad as FullGrad
    from binderclip.explain.gradient.full_gradient import FullGradients as FullGradients
    from binderclip.explain.gradient.full_gradient import full_gradients as full_gradients
    from binderclip.explain.gradient.gradcam import GradCAM as GradCAM
    from binderclip.explain.gradient.gradcam_plus_plus import GradCAMPlusPlus as GradCAMPlusPlus
    from binderclip.explain.gradient.gradcam_plus_plus import SmoothGradCAMPlusPlus as SmoothGradCAMPlusPlus
    from binderclip.explain.gradient.gradients import InputXGradient as InputXGradient
    from binderclip.explain.gradient.gradients import IntegratedGradients as IntegratedGradients
    from binderclip.explain.gradient.gradients import SmoothGrad as SmoothGrad
    from binderclip.explain.gradient.input_gradients import gradient_alignment as gradient_alignment
    from binderclip.explain.gradient.input_gradients import input_gradient as input_gradient
    from binderclip.explain.gradient.meta_step import MetaStep as MetaStep
    from binderclip.explain.gradient.meta_step import meta_saliency as meta_saliency
    from binderclip.explain.gradient.normgrad import ExtractAggregate as ExtractAggregate
    from binderclip.explain.gradient.normgrad import NormGrad as NormGrad
    from binderclip.explain.gradient.relu_rules import relu_rule as relu_rule
    from binderclip.explain.gradient.saliency import Saliency as Saliency
    from binderclip.explain.mask.methods import CartoonX as CartoonX
    from binderclip.explain.mask.methods import PixelMask as PixelMask
    from binderclip.explain.mask.methods import ShearletX as ShearletX
    from binderclip.explain.mask.methods import WaveletX as WaveletX
    from binderclip.explain.mask.optimise import MaskAttribution as MaskAttribution
    from binderclip.explain.mask.optimise import MaskExplanation as MaskExplanation
    from binderclip.explain.mask.patch_effect import PatchEffects as PatchEffects
    from binderclip.explain.mask.patch_effect import patch_direct_effect as patch_direct_effect
    from binderclip.explain.mask.patch_effect import single_patch_scores as single_patch_scores
    from binderclip.explain.mask.scores import conciseness_preciseness as conciseness_preciseness
    from binderclip.explain.mask.scores import hallucination_score as hallucination_score
    from binderclip.explain.methods import METHODS as METHODS
    from binderclip.explain.transformer.eclip import GradECLIP as GradECLIP
    from binderclip.explain.transformer.eclip import MedGradECLIP as MedGradECLIP
    from binderclip.explain.transformer.rollout import AttentionRollout as AttentionRollout
    from binderclip.explain.words.concept_map import ConceptMap as ConceptMap
    from binderclip.explain.words.misalignment import DenseMisalignment as DenseMisalignment
    from binderclip.explain.words.misalignment import Misalignment as Misalignment
    from binderclip.explain.words.text_tokens import LeaveOneWordOut as LeaveOneWordOut
    from binderclip.explain.words.text_tokens import TextTokenAttribution as TextTokenAttribution
    from binderclip.explain.words.text_tokens import WordScores as WordScores

lazy_exports(__name__)
