"""Gradient clipping, parameter groups and learning-rate schedules; needs torch alone."""

from __future__ import annotations

from binderclip.optim.actions import coefficient
from binderclip.optim.attach import Attachment, attach
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
from binderclip.optim.groups import layer_index, param_groups
from binderclip.optim.methods import METHODS, ClipList, as_clip, clip_grad_norm_
from binderclip.optim.report import ClipReport
from binderclip.optim.schedule import SCHEDULES, LRSchedule, schedule
from binderclip.optim.space import HessianOperator, hvp
from binderclip.optim.threshold import Constant, Memory, Reading, Threshold

__all__ = [
    "AGC",
    "METHODS",
    "SCHEDULES",
    "AdaGC",
    "Attachment",
    "AutoClip",
    "Clip",
    "ClipList",
    "ClipReport",
    "Constant",
    "CoordinateClip",
    "HessianOperator",
    "HistoryQuantile",
    "LRSchedule",
    "MaxEMA",
    "Memory",
    "Min",
    "NonFiniteGradient",
    "NormClip",
    "Reading",
    "RelativeEMA",
    "Scheduled",
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
    "hvp",
    "layer_index",
    "param_groups",
    "schedule",
    "unit_dims",
]
