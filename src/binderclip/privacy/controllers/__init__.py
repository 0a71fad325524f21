"""Controllers that move the clip norm or the noise during training."""

from __future__ import annotations

from binderclip.privacy.controllers.multi_objective import (
    MultiObjectiveClip,
    clip_loss,
    clip_loss_slope,
    model_loss_slope,
)
from binderclip.privacy.controllers.rldp import Decision, Policy, RLDPController

__all__ = [
    "Decision",
    "MultiObjectiveClip",
    "Policy",
    "RLDPController",
    "clip_loss",
    "clip_loss_slope",
    "model_loss_slope",
]
