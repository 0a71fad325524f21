"""Gradient clipping, gradient rules, parameter groups and learning-rate schedules; needs torch alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.optim.averaging import ModelEMA, scaled_ema_decay
    from binderclip.optim.clip.actions import coefficient
    from binderclip.optim.clip.attach import Attachment, attach
    from binderclip.optim.clip.clippers.adagc import AdaGC, RelativeEMA
    from binderclip.optim.clip.clippers.agc import AGC, WeightRatio, unit_dims
    from binderclip.optim.clip.clippers.autoclip import AutoClip, HistoryQuantile
    from binderclip.optim.clip.clippers.coordinate import CoordinateClip, TopFraction
    from binderclip.optim.clip.clippers.max_ema import MaxEMA
    from binderclip.optim.clip.clippers.norm import NormClip, ValueClip
    from binderclip.optim.clip.clippers.zclip import ZClip, ZScore
    from binderclip.optim.clip.clipping import Clip
    from binderclip.optim.clip.combine import Min, Scheduled
    from binderclip.optim.clip.lightning import lightning_callback
    from binderclip.optim.clip.log import ClipLog
    from binderclip.optim.clip.methods import METHODS, ClipList, as_clip, clip_grad_norm_
    from binderclip.optim.clip.report import ClipReport
    from binderclip.optim.clip.spikes import ClipHistory, Spike, read_clip_log
    from binderclip.optim.clip.threshold import Constant, Memory, Reading, Threshold
    from binderclip.optim.gradients.nonfinite import NonFiniteGradient
    from binderclip.optim.groups import layer_index, layerwise_lr_groups, param_groups
    from binderclip.optim.optimizers import (
        LAMB,
        ClippedAdaGrad,
        ClippedAdam,
        MedianMomentum,
        NormStabilizer,
        SampleMedianSGD,
        SpamReport,
        StableSPAM,
    )
    from binderclip.optim.optimizers.median import geometric_median
    from binderclip.optim.optimizers.sam import SAM
    from binderclip.optim.quantized import fake_quantize, quantized_linear
    from binderclip.optim.rules import (
        GradientRule,
        NormalizedGradient,
        ProjectConflicting,
        SteerBySharpness,
        project_conflicting,
        steer_gradient,
    )
    from binderclip.optim.schedules import SCHEDULES, LRSchedule, schedule
    from binderclip.optim.space import HessianOperator, hvp

__all__ = [
    "AGC",
    "LAMB",
    "METHODS",
    "SAM",
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

lazy_exports(__name__)
