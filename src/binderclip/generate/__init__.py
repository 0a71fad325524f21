"""Making pictures: diffusion with its guidance and exact cases, flows, drawings, and adversarial training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.generate.coupling_flow import CouplingFlow as CouplingFlow
    from binderclip.generate.coupling_flow import effective_sample_size as effective_sample_size
    from binderclip.generate.denoisers.attention import AttentionControl as AttentionControl
    from binderclip.generate.denoisers.attention import AttentionSite as AttentionSite
    from binderclip.generate.denoisers.attention import AttentionStore as AttentionStore
    from binderclip.generate.denoisers.context import GuidanceTerm as GuidanceTerm
    from binderclip.generate.denoisers.context import SamplingHook as SamplingHook
    from binderclip.generate.denoisers.context import StepContext as StepContext
    from binderclip.generate.denoisers.denoiser import Denoiser as Denoiser
    from binderclip.generate.denoisers.distillation import DistillationStep as DistillationStep
    from binderclip.generate.denoisers.distillation import distill_score as distill_score
    from binderclip.generate.denoisers.distillation import distillation_loss as distillation_loss
    from binderclip.generate.denoisers.exact import ConditionalDenoiser as ConditionalDenoiser
    from binderclip.generate.denoisers.exact import GaussianDenoiser as GaussianDenoiser
    from binderclip.generate.denoisers.exact import GaussianMixtureDenoiser as GaussianMixtureDenoiser
    from binderclip.generate.denoisers.exact import MixtureDenoiser as MixtureDenoiser
    from binderclip.generate.denoisers.latent import LatentDenoiser as LatentDenoiser
    from binderclip.generate.denoisers.pipeline import load_denoiser as load_denoiser
    from binderclip.generate.denoisers.pipeline import save_denoiser as save_denoiser
    from binderclip.generate.denoisers.prompts import ImageTextPromptEncoder as ImageTextPromptEncoder
    from binderclip.generate.denoisers.prompts import Prompt as Prompt
    from binderclip.generate.denoisers.prompts import PromptEncoder as PromptEncoder
    from binderclip.generate.denoisers.prompts import TransformersPromptEncoder as TransformersPromptEncoder
    from binderclip.generate.denoisers.sampling import invert as invert
    from binderclip.generate.denoisers.sampling import sample as sample
    from binderclip.generate.denoisers.schedule import NoiseSchedule as NoiseSchedule
    from binderclip.generate.draw.clipdraw import clipdraw as clipdraw
    from binderclip.generate.draw.gradients import clamp_with_grad as clamp_with_grad
    from binderclip.generate.draw.gradients import replace_grad as replace_grad
    from binderclip.generate.draw.mesh_texture import MeshTexture as MeshTexture
    from binderclip.generate.draw.objectives import PromptDistance as PromptDistance
    from binderclip.generate.draw.objectives import clip_prompt as clip_prompt
    from binderclip.generate.draw.optimisation import ImageOptimisation as ImageOptimisation
    from binderclip.generate.draw.optimisation import OptimisedImage as OptimisedImage
    from binderclip.generate.draw.optimisation import WeightedObjective as WeightedObjective
    from binderclip.generate.draw.parametrisation import Parametrisation as Parametrisation
    from binderclip.generate.draw.parametrisation import PixelImage as PixelImage
    from binderclip.generate.draw.stochastic import Rendering as Rendering
    from binderclip.generate.draw.stochastic import estimate_gradient as estimate_gradient
    from binderclip.generate.draw.transforms import PerspectiveCutouts as PerspectiveCutouts
    from binderclip.generate.draw.transforms import warp_homography as warp_homography
    from binderclip.generate.draw.vector.compositing import composite_over as composite_over
    from binderclip.generate.draw.vector.paths import BezierPaths as BezierPaths
    from binderclip.generate.draw.vector.strokes import BezierStrokes as BezierStrokes
    from binderclip.generate.draw.vector.svg import RadialFill as RadialFill
    from binderclip.generate.draw.vectorise import vectorize as vectorize
    from binderclip.generate.edit.localized import LUSD as LUSD
    from binderclip.generate.edit.localized import attention_edit_mask as attention_edit_mask
    from binderclip.generate.edit.localized import direction_std_schedule as direction_std_schedule
    from binderclip.generate.edit.score_distillation import ScoreDistillation as ScoreDistillation
    from binderclip.generate.edit.score_distillation import dds_direction as dds_direction
    from binderclip.generate.edit.score_distillation import sds_direction as sds_direction
    from binderclip.generate.feedback.condition import ConditionTap as ConditionTap
    from binderclip.generate.feedback.condition import ImageCondition as ImageCondition
    from binderclip.generate.feedback.condition import VisualFeatures as VisualFeatures
    from binderclip.generate.feedback.corruption import Corrupted as Corrupted
    from binderclip.generate.feedback.corruption import Corruption as Corruption
    from binderclip.generate.feedback.corruption import DiffusionCorruption as DiffusionCorruption
    from binderclip.generate.feedback.corruption import RectifiedFlow as RectifiedFlow
    from binderclip.generate.feedback.corruption import TokenMasking as TokenMasking
    from binderclip.generate.feedback.feedback import GenerativeFeedback as GenerativeFeedback
    from binderclip.generate.feedback.generators import DiffusersGenerator as DiffusersGenerator
    from binderclip.generate.feedback.generators import ImageConditionedGenerator as ImageConditionedGenerator
    from binderclip.generate.feedback.generators import MaskedTokenModel as MaskedTokenModel
    from binderclip.generate.feedback.generators import PatchDenoiser as PatchDenoiser
    from binderclip.generate.feedback.methods import FEEDBACK as FEEDBACK
    from binderclip.generate.feedback.methods import caption_condition as caption_condition
    from binderclip.generate.feedback.methods import diva as diva
    from binderclip.generate.feedback.methods import genhancer as genhancer
    from binderclip.generate.feedback.methods import genhancer_tokens as genhancer_tokens
    from binderclip.generate.feedback.methods import un2clip as un2clip
    from binderclip.generate.feedback.targets import LatentTarget as LatentTarget
    from binderclip.generate.feedback.targets import PatchCodebook as PatchCodebook
    from binderclip.generate.feedback.targets import PixelTarget as PixelTarget
    from binderclip.generate.guidance.classifier import ClassifierGuidance as ClassifierGuidance
    from binderclip.generate.guidance.classifier import ClippedSample as ClippedSample
    from binderclip.generate.guidance.classifier import log_probability_gradient as log_probability_gradient
    from binderclip.generate.guidance.classifier_free import ClassifierFreeGuidance as ClassifierFreeGuidance
    from binderclip.generate.guidance.linear import CFGComponents as CFGComponents
    from binderclip.generate.guidance.linear import LinearGuidance as LinearGuidance
    from binderclip.generate.guidance.linear import cfg_components as cfg_components
    from binderclip.generate.guidance.noisy_classifier import NoisyClassifier as NoisyClassifier
    from binderclip.generate.guidance.windows import JointWindows as JointWindows
    from binderclip.generate.guidance.windows import SyncGuidance as SyncGuidance
    from binderclip.generate.translate.gan_loss import GANLoss as GANLoss
    from binderclip.generate.translate.guidance_mask import anchor_masks as anchor_masks
    from binderclip.generate.translate.guidance_mask import contrastive_mask as contrastive_mask
    from binderclip.generate.translate.guidance_mask import training_masks as training_masks
    from binderclip.generate.translate.reflection import PromptBlock as PromptBlock
    from binderclip.generate.translate.reflection import ReflectionLayers as ReflectionLayers
    from binderclip.generate.translate.reflection import ReflectionRemover as ReflectionRemover
    from binderclip.generate.translate.reflection import reflection_losses as reflection_losses
    from binderclip.generate.translate.terms import CriticPass as CriticPass
    from binderclip.generate.translate.terms import DiscriminatorTerm as DiscriminatorTerm
    from binderclip.generate.translate.terms import LossTerm as LossTerm
    from binderclip.generate.translate.terms import MatchingAwarePenalty as MatchingAwarePenalty
    from binderclip.generate.translate.terms import R1Penalty as R1Penalty
    from binderclip.generate.translate.terms import WassersteinPenalty as WassersteinPenalty
    from binderclip.generate.translate.terms import weight_bound as weight_bound
    from binderclip.generate.translate.trainer import AdversarialTrainer as AdversarialTrainer

lazy_exports(__name__)
