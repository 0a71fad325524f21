"""Gradient clipping, gradient rules, parameter groups and learning-rate schedules; needs torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.optim.averaging import ModelEMA as ModelEMA
    from binderclip.optim.averaging import scaled_ema_decay as scaled_ema_decay
    from binderclip.optim.clip.actions import coefficient as coefficient
    from binderclip.optim.clip.attach import Attachment as Attachment
    from binderclip.optim.clip.attach import attach as attach
    from binderclip.optim.clip.clippers.adagc import AdaGC as AdaGC
    from binderclip.optim.clip.clippers.adagc import RelativeEMA as RelativeEMA
    from binderclip.optim.clip.clippers.agc import AGC as AGC
    from binderclip.optim.clip.clippers.agc import WeightRatio as WeightRatio
    from binderclip.optim.clip.clippers.agc import unit_dims as unit_dims
    from binderclip.optim.clip.clippers.autoclip import AutoClip as AutoClip
    from binderclip.optim.clip.clippers.autoclip import HistoryQuantile as HistoryQuantile
    from binderclip.optim.clip.clippers.coordinate import CoordinateClip as CoordinateClip
    from binderclip.optim.clip.clippers.coordinate import TopFraction as TopFraction
    from binderclip.optim.clip.clippers.max_ema import MaxEMA as MaxEMA
    from binderclip.optim.clip.clippers.norm import NormClip as NormClip
    from binderclip.optim.clip.clippers.norm import ValueClip as ValueClip
    from binderclip.optim.clip.clippers.zclip import ZClip as ZClip
    from binderclip.optim.clip.clippers.zclip import ZScore as ZScore
    from binderclip.optim.clip.clipping import Clip as Clip
    from binderclip.optim.clip.combine import Min as Min
    from binderclip.optim.clip.combine import Scheduled as Scheduled
    from binderclip.optim.clip.lightning import lightning_callback as lightning_callback
    from binderclip.optim.clip.log import ClipLog as ClipLog
    from binderclip.optim.clip.methods import METHODS as METHODS
    from binderclip.optim.clip.methods import ClipList as ClipList
    from binderclip.optim.clip.methods import as_clip as as_clip
    from binderclip.optim.clip.methods import clip_grad_norm_ as clip_grad_norm_
    from binderclip.optim.clip.report import ClipReport as ClipReport
    from binderclip.optim.clip.spikes import ClipHistory as ClipHistory
    from binderclip.optim.clip.spikes import Spike as Spike
    from binderclip.optim.clip.spikes import read_clip_log as read_clip_log
    from binderclip.optim.clip.threshold import Constant as Constant
    from binderclip.optim.clip.threshold import Memory as Memory
    from binderclip.optim.clip.threshold import Reading as Reading
    from binderclip.optim.clip.threshold import Threshold as Threshold
    from binderclip.optim.estimators.forward_gradient import ForwardGradient as ForwardGradient
    from binderclip.optim.estimators.forward_gradient import project_gradient as project_gradient
    from binderclip.optim.estimators.tract import GRAD_TRANSFORMS as GRAD_TRANSFORMS
    from binderclip.optim.estimators.tract import TrAct as TrAct
    from binderclip.optim.estimators.tract import first_layer as first_layer
    from binderclip.optim.estimators.tract import tract_weight_grad as tract_weight_grad
    from binderclip.optim.gradients.nonfinite import NonFiniteGradient as NonFiniteGradient
    from binderclip.optim.groups import layer_index as layer_index
    from binderclip.optim.groups import layerwise_lr_groups as layerwise_lr_groups
    from binderclip.optim.groups import param_groups as param_groups
    from binderclip.optim.optimizers import LAMB as LAMB
    from binderclip.optim.optimizers import ClippedAdaGrad as ClippedAdaGrad
    from binderclip.optim.optimizers import ClippedAdam as ClippedAdam
    from binderclip.optim.optimizers import MedianMomentum as MedianMomentum
    from binderclip.optim.optimizers import NormStabilizer as NormStabilizer
    from binderclip.optim.optimizers import SampleMedianSGD as SampleMedianSGD
    from binderclip.optim.optimizers import SpamReport as SpamReport
    from binderclip.optim.optimizers import SplitSGD as SplitSGD
    from binderclip.optim.optimizers import StableSPAM as StableSPAM
    from binderclip.optim.optimizers.median import geometric_median as geometric_median
    from binderclip.optim.optimizers.proximal import ProximalSGD as ProximalSGD
    from binderclip.optim.optimizers.proximal import soft_threshold as soft_threshold
    from binderclip.optim.optimizers.sam import SAM as SAM
    from binderclip.optim.optimizers.sam_variants import GSAM as GSAM
    from binderclip.optim.optimizers.sam_variants import LookSAM as LookSAM
    from binderclip.optim.perturbation import SharpnessGradient as SharpnessGradient
    from binderclip.optim.perturbation import sharpness_gradient as sharpness_gradient
    from binderclip.optim.perturbation import weight_scales as weight_scales
    from binderclip.optim.quantized import fake_quantize as fake_quantize
    from binderclip.optim.quantized import quantized_linear as quantized_linear
    from binderclip.optim.rules import GradientRule as GradientRule
    from binderclip.optim.rules import NormalizedGradient as NormalizedGradient
    from binderclip.optim.rules import ProjectConflicting as ProjectConflicting
    from binderclip.optim.rules import SteerBySharpness as SteerBySharpness
    from binderclip.optim.rules import project_conflicting as project_conflicting
    from binderclip.optim.rules import steer_gradient as steer_gradient
    from binderclip.optim.schedules import SCHEDULES as SCHEDULES
    from binderclip.optim.schedules import LRSchedule as LRSchedule
    from binderclip.optim.schedules import layerwise_gaussian_lr as layerwise_gaussian_lr
    from binderclip.optim.schedules import schedule as schedule
    from binderclip.optim.schedules import sigmoid_cosine_decay as sigmoid_cosine_decay
    from binderclip.optim.space import HessianOperator as HessianOperator
    from binderclip.optim.space import hvp as hvp

lazy_exports(__name__)
