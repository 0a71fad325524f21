"""What a model can do: retrieval, zero-shot, groups, transfer, learning task by task, and what marks change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.evaluate.clicks import ClickFigures, click_figures
    from binderclip.evaluate.continual import ContinualMetrics, Task, run_stream
    from binderclip.evaluate.groups import GroupAccuracy, worst_group_accuracy
    from binderclip.evaluate.last_attention import LastAttention, last_attention
    from binderclip.evaluate.learning import LearningCurve, LearningPoint, learning_set_curve
    from binderclip.evaluate.misalignment import MisalignmentScore, clip_score, f_clipscore_dm, word_detection
    from binderclip.evaluate.model import Evaluation, evaluate_model, figures
    from binderclip.evaluate.patch_affinity import PatchAffinity, patch_affinity
    from binderclip.evaluate.retrieval import retrieval, zero_shot_accuracy
    from binderclip.evaluate.transfer import Binary, binary_scores, transfer_matrix
    from binderclip.evaluate.visual_prompts import (
        PromptScore,
        attention_in_region,
        attention_mass,
        box_coverage,
        visual_prompt_study,
    )

__all__ = [
    "Binary",
    "ClickFigures",
    "ContinualMetrics",
    "Evaluation",
    "GroupAccuracy",
    "LastAttention",
    "LearningCurve",
    "LearningPoint",
    "MisalignmentScore",
    "PatchAffinity",
    "PromptScore",
    "Task",
    "attention_in_region",
    "attention_mass",
    "binary_scores",
    "box_coverage",
    "click_figures",
    "clip_score",
    "evaluate_model",
    "f_clipscore_dm",
    "figures",
    "last_attention",
    "learning_set_curve",
    "patch_affinity",
    "retrieval",
    "run_stream",
    "transfer_matrix",
    "visual_prompt_study",
    "word_detection",
    "worst_group_accuracy",
    "zero_shot_accuracy",
]

lazy_exports(__name__)
