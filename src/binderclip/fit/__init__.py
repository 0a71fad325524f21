"""The one training loop of every method, its checkpoints and its records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.fit.checkpoint import Checkpoint as Checkpoint
    from binderclip.fit.loop import fit as fit
    from binderclip.fit.loop import make_clip as make_clip
    from binderclip.fit.optimizers import OPTIMIZERS as OPTIMIZERS
    from binderclip.fit.optimizers import PRECISIONS as PRECISIONS
    from binderclip.fit.optimizers import make_optimizer as make_optimizer
    from binderclip.fit.records import Callback as Callback
    from binderclip.fit.records import Diverged as Diverged
    from binderclip.fit.records import FitResult as FitResult
    from binderclip.fit.records import History as History
    from binderclip.fit.records import StepRecord as StepRecord
    from binderclip.fit.zero_gradients import ZeroGradients as ZeroGradients

lazy_exports(__name__)
