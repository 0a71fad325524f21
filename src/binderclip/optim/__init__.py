"""Gradient clipping, gradient rules, parameter groups and learning-rate schedules; needs torch alone."""

from __future__ import annotations

from binderclip.optim.actions import coefficient
from binderclip.optim.attach import Attachment, attach
from binderclip.optim.averaging import ModelEMA, scaled_ema_decay
from binderclip.optim.cliplog import ClipLog
from binderclip.optim.clippers.adagc import AdaGC, RelativeEMA
from binderclip.optim.clippers.agc import AGC, WeightRatio, unit_dims
from binderclip.optim.clippers.autoclip import AutoClip, HistoryQuantile
from binderclip.optim.clippers.coordinate import CoordinateClip, TopFraction
from binderclip.optim.clippers.max_ema import MaxEMA
from binderclip.optim.clippers.norm import NormClip, ValueClip
from binderclip.optim.clippers.zclip import ZClip, ZScore
from binderclip.optim.clipping import Clip
from binderclip.optim.combine import Min, Scheduled
from binderclip.optim.gradients import NonFiniteGradient
from binderclip.optim.groups import layer_index, layerwise_lr_groups, param_groups
from binderclip.optim.loops import lightning_callback
from binderclip.optim.median import geometric_median
from binderclip.optim.methods import METHODS, ClipList, as_clip, clip_grad_norm_
from binderclip.optim.optimizers import (
    ClippedAdaGrad,
    ClippedAdam,
    MedianMomentum,
    NormStabilizer,
    SampleMedianSGD,
    SpamReport,
    StableSPAM,
)
from binderclip.optim.quantized import fake_quantize, quantized_linear
from binderclip.optim.report import ClipReport
from binderclip.optim.rules import (
    GradientRule,
    NormalizedGradient,
    ProjectConflicting,
    SteerBySharpness,
    project_conflicting,
    steer_gradient,
)
from binderclip.optim.schedule import SCHEDULES, LRSchedule, schedule
from binderclip.optim.space import HessianOperator, hvp
from binderclip.optim.spikes import ClipHistory, Spike, read_clip_log
from binderclip.optim.threshold import Constant, Memory, Reading, Threshold

__all__ = [
    "AGC",
    "METHODS",
    "SCHEDULES",
    "AdaGC",
    "Attachment",
    "AutoClip",
    "Clip",
    "ClipHistory",
    "ClipList",
    "ClipLog",
    "ClipReport",
    "ClippedAdaGrad",
    "ClippedAdam",
    "Constant",
    "CoordinateClip",
    "GradientRule",
    "HessianOperator",
    "HistoryQuantile",
    "LRSchedule",
    "MaxEMA",
    "MedianMomentum",
    "Memory",
    "Min",
    "ModelEMA",
    "NonFiniteGradient",
    "NormClip",
    "NormStabilizer",
    "NormalizedGradient",
    "ProjectConflicting",
    "Reading",
    "RelativeEMA",
    "SampleMedianSGD",
    "Scheduled",
    "SpamReport",
    "Spike",
    "StableSPAM",
    "SteerBySharpness",
    "Threshold",
    "TopFraction",
    "ValueClip",
    "WeightRatio",
    "ZClip",
    "ZScore",
    "as_clip",
    "attach",
    "clip_grad_norm_",
    "coefficient",
    "fake_quantize",
    "geometric_median",
    "hvp",
    "layer_index",
    "layerwise_lr_groups",
    "lightning_callback",
    "param_groups",
    "project_conflicting",
    "quantized_linear",
    "read_clip_log",
    "scaled_ema_decay",
    "schedule",
    "steer_gradient",
    "unit_dims",
]
