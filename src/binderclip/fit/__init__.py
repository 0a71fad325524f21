"""The one training loop of every method, its checkpoints and its records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.fit.checkpoint import Checkpoint
    from binderclip.fit.loop import fit, make_clip
    from binderclip.fit.optimizers import OPTIMIZERS, PRECISIONS, make_optimizer
    from binderclip.fit.records import Callback, Diverged, FitResult, History, StepRecord
    from binderclip.fit.zero_gradients import ZeroGradients

__all__ = [
    "OPTIMIZERS",
    "PRECISIONS",
    "Callback",
    "Checkpoint",
    "Diverged",
    "FitResult",
    "History",
    "StepRecord",
    "ZeroGradients",
    "fit",
    "make_clip",
    "make_optimizer",
]

lazy_exports(__name__)
