"""Gradient clipping, parameter groups and learning-rate schedules; needs torch alone."""

from __future__ import annotations

from binderclip.optim.actions import coefficient
from binderclip.optim.attach import Attachment, attach
from binderclip.optim.cliplog import ClipLog
from binderclip.optim.clippers.norm import NormClip, ValueClip
from binderclip.optim.clippers.zclip import ZClip, ZScore
from binderclip.optim.clipping import Clip
from binderclip.optim.combine import Min, Scheduled
from binderclip.optim.gradients import NonFiniteGradient
from binderclip.optim.groups import layer_index, param_groups
from binderclip.optim.loops import lightning_callback
from binderclip.optim.methods import METHODS, ClipList, as_clip, clip_grad_norm_
from binderclip.optim.report import ClipReport
from binderclip.optim.schedule import SCHEDULES, LRSchedule, schedule
from binderclip.optim.space import HessianOperator, hvp
from binderclip.optim.spikes import ClipHistory, Spike, read_clip_log
from binderclip.optim.threshold import Constant, Memory, Reading, Threshold

__all__ = [
    "METHODS",
    "SCHEDULES",
    "Attachment",
    "Clip",
    "ClipHistory",
    "ClipList",
    "ClipLog",
    "ClipReport",
    "Constant",
    "HessianOperator",
    "LRSchedule",
    "Memory",
    "Min",
    "NonFiniteGradient",
    "NormClip",
    "Reading",
    "Scheduled",
    "Spike",
    "Threshold",
    "ValueClip",
    "ZClip",
    "ZScore",
    "as_clip",
    "attach",
    "clip_grad_norm_",
    "coefficient",
    "hvp",
    "layer_index",
    "lightning_callback",
    "param_groups",
    "read_clip_log",
    "schedule",
]
