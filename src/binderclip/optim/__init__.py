"""Gradient clipping, parameter groups and learning-rate schedules; needs torch alone."""

from __future__ import annotations

from binderclip.optim.groups import layer_index, param_groups
from binderclip.optim.schedule import SCHEDULES, LRSchedule, schedule

__all__ = ["SCHEDULES", "LRSchedule", "layer_index", "param_groups", "schedule"]
